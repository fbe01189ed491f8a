#!/bin/sh
# Makes an authority and the certificates of the rig in docker-compose.yml, each in its folder below /pki. What is there
# stays: a certificate is renewed with `ndsc certificates … --replace`.
set -eu

made() { [ -e "/pki/$1/certificate.pem" ]; }

made ca || ndsc certificates ca /pki/ca
made decoder || ndsc certificates server /pki/decoder --ca /pki/ca \
    --hosts "decoder,localhost,127.0.0.1${NDSC_TLS_HOSTS:+,$NDSC_TLS_HOSTS}"
made left || ndsc certificates camera /pki/left --ca /pki/ca --rig rig --name left --hosts camera-left,localhost
made right \
    || ndsc certificates side-information /pki/right --ca /pki/ca --rig rig --name right --hosts camera-right,localhost
made viewer || ndsc certificates client /pki/viewer --ca /pki/ca --rig rig --name viewer
made client || ndsc certificates client /pki/client --ca /pki/ca --rig rig --name client
