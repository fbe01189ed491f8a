"""Makes an authority of one's own, and the certificates and token keys of one's rigs."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ndsc.codec.errors import OutputError, printable
from ndsc.codec.files import write_whole
from ndsc.service.identity import Identity
from ndsc.service.tls import CertificateFiles, is_host_name, load_certificates
from ndsc.service.watched import KeyFileError

CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"
CA: Final = "ca.pem"
PRIVATE: Final = "private.pem"
PUBLIC: Final = "public.pem"

_BACKDATED: Final = timedelta(minutes=5)
"""Clocks of cameras may be behind by so much."""


def make_authority(folder: Path, valid: timedelta) -> None:
    """Write certificate.pem and key.pem of a new authority into `folder`. Raises OutputError."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Authorities that follow one another in ca.pem are told apart by name.
    name = _common_name(f"ndsc authority {secrets.token_hex(4)}")
    certificate = (
        _builder(name, name, key.public_key(), key.public_key(), datetime.now(UTC) + valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, {KEY: _private_pem(key), CERTIFICATE: certificate.public_bytes(Encoding.PEM)})


def issue_certificate(
    folder: Path,
    *,
    authority: Path,
    identity: Identity | None,
    hosts: Sequence[str],
    valid: timedelta,
    replace: bool = False,
) -> CertificateFiles:
    """Write certificate.pem, key.pem and the authority's ca.pem into `folder`, and say where they are.

    `identity` is what the holder may do as a client, None for a decoder server; `hosts` are the names and
    addresses that it is reached at as a server, `*.decoder.example` every name of one more label. Raises
    KeyFileError, and OutputError when the files exist and are not to be replaced.
    """
    ca, ca_key = _load_authority(authority)
    expires = datetime.now(UTC) + valid
    if expires > ca.not_valid_after_utc:
        raise KeyFileError(
            f"the authority {authority} ends on {ca.not_valid_after_utc:%Y-%m-%d}, before the certificate "
            f"would: ask for fewer days, or make a new authority"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]  # a server asks after its own health
    if hosts:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    names: list[x509.GeneralName] = [_host(host) for host in hosts]
    if identity is not None:
        names.append(x509.UniformResourceIdentifier(identity.uri))
    certificate = (
        _builder(
            _common_name("decoder" if identity is None else identity.name),
            ca.subject,
            key.public_key(),
            ca_key.public_key(),
            expires,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    contents = {
        CA: ca.public_bytes(Encoding.PEM),
        KEY: _private_pem(key),
        CERTIFICATE: certificate.public_bytes(Encoding.PEM),
    }
    if replace and (folder / CA).exists():
        del contents[CA]  # it may hold further authorities
    _write(folder, contents, replace=replace)
    return CertificateFiles(folder / CA, folder / CERTIFICATE, folder / KEY)


def make_token_keys(folder: Path) -> None:
    """Write private.pem, which signs tokens, and public.pem, for servers, into `folder`. Raises OutputError."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write(folder, {PRIVATE: _private_pem(key), PUBLIC: public})


def _load_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, key = folder / CERTIFICATE, folder / KEY
    loaded = load_certificates(CertificateFiles(certificate, certificate, key))
    if loaded.own is None or loaded.pair_pem is None:
        raise KeyFileError(f"{folder} holds no authority of `ndsc certificates ca`")
    private = load_pem_private_key(loaded.pair_pem[0], password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{key} is no key of `ndsc certificates ca`")
    return loaded.own, private


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    expires: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.now(UTC), expires) - _BACKDATED)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not is_host_name(host.removeprefix("*.")):  # one label of any name, as behind a proxy
            raise KeyFileError(f"{printable(host)!r} is no host name or IP address") from None
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(folder: Path, contents: Mapping[str, bytes], *, replace: bool = False) -> None:
    for name in contents:
        if (folder / name).exists() and not replace:
            raise OutputError(
                f"{folder / name} exists: choose another folder; certificates are renewed with --replace"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    for name, data in contents.items():
        write_whole(folder / name, data, mode=0o600 if name in (KEY, PRIVATE) else 0o644)
