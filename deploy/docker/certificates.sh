#!/bin/sh
# Makes an authority and the certificates of the rig in docker-compose.yml, each in its folder below /pki. What is there
# stays, but with `renew`: then all but the authority are made anew.
set -eu
renew=${1:-}

issue() { # ROLE FOLDER FLAG…
    role=$1 folder=$2
    shift 2
    if [ "$renew" != renew ] && [ -e "/pki/$folder/certificate.pem" ]; then return; fi
    rm -rf "/tmp/$folder"
    ndsc certificates "$role" "/tmp/$folder" --ca /pki/ca "$@"
    # The certificate comes last: without it the next run begins again.
    for file in ca key certificate; do
        cp "/tmp/$folder/$file.pem" "/pki/$folder/$file.new"
        chmod 600 "/pki/$folder/$file.new"
        mv "/pki/$folder/$file.new" "/pki/$folder/$file.pem"
    done
}

[ -e /pki/ca/certificate.pem ] || ndsc certificates ca /pki/ca
issue server decoder --hosts "decoder,localhost,127.0.0.1${NDSC_TLS_HOSTS:+,$NDSC_TLS_HOSTS}"
issue camera left --rig rig --name left --hosts camera-left,localhost
issue side-information right --rig rig --name right --hosts camera-right,localhost
issue client viewer --rig rig --name viewer
issue client client --rig rig --name client
