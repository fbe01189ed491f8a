"""Certificates of a process and of the authorities it checks its peers by."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ndsc.service.identity import TRUST_DOMAIN, Credential, Identity, IdentityError
from ndsc.service.watched import KeyFileError, Watched, read_files

_DAY_S: Final = 86_400.0
_WARNING_S: Final = 7 * _DAY_S
_WARNING_PART: Final = 0.1
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}")


@dataclass(frozen=True)
class CertificateFiles:
    """Where a process finds its keys, all PEM. Raises KeyFileError when one of the pair is missing."""

    ca: Path
    """Certificates of the authorities that peers are checked by."""
    certificate: Path | None = None
    """This process's certificate, then those between it and an authority. Clients with tokens have none."""
    key: Path | None = None
    """Private key of that certificate."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise KeyFileError("a certificate and its key go together: give both, or neither")

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that there are."""
        if self.certificate is None or self.key is None:
            return (self.ca,)
        return (self.ca, self.certificate, self.key)


@dataclass(frozen=True)
class Certificates:
    """What the files hold. They fit together; `check_dates` says whether they are valid now."""

    files: CertificateFiles
    ca_pem: bytes = field(repr=False)
    pair_pem: tuple[bytes, bytes] | None = field(repr=False)
    """This process's key and its certificate chain."""
    authorities: tuple[x509.Certificate, ...]
    own: x509.Certificate | None
    """This process's certificate."""

    @property
    def expires_s(self) -> float:
        """When this process's certificate ends (without one, the last authority's), seconds since 1970."""
        certificates = (self.own,) if self.own is not None else self.authorities
        return max(certificate.not_valid_after_utc.timestamp() for certificate in certificates)

    def check_dates(self) -> None:
        """Raise KeyFileError when this process's certificate, or every authority, is not valid now."""
        now = datetime.now(UTC)
        if all(authority.not_valid_after_utc <= now for authority in self.authorities):
            raise KeyFileError(f"{self.files.ca} holds no authority that is still valid: put a new one there")
        if self.own is None:
            return
        if self.own.not_valid_after_utc <= now:
            raise KeyFileError(
                f"the certificate {self.files.certificate} expired on {_date(self.own.not_valid_after_utc)}: "
                f"issue a new one (`ndsc certificates`)"
            )
        if self.own.not_valid_before_utc > now:
            raise KeyFileError(
                f"the certificate {self.files.certificate} is valid from {_date(self.own.not_valid_before_utc)} "
                f"on: check this machine's clock"
            )

    def expiry_warning(self) -> str | None:
        """One line when less than 7 days, and less than a tenth of its life, are left to the certificate."""
        if self.own is None:
            return None
        left_s = self.expires_s - time.time()
        life_s = self.expires_s - self.own.not_valid_before_utc.timestamp()
        if left_s > min(_WARNING_S, _WARNING_PART * life_s):
            return None
        when = f"{left_s / _DAY_S:.1f} days from now" if left_s > 0 else "in the past"
        return (
            f"the certificate {self.files.certificate} expires on {_date(self.own.not_valid_after_utc)}, {when}: "
            f"issue a new one (`ndsc certificates`) in its place"
        )

    def require_identity(self, identity: Identity) -> None:
        """Raise KeyFileError unless this process's certificate is for `identity`."""
        found = None if self.own is None else credential_of(self.own).identity
        if found != identity:
            holds = "names no rig, role and name" if found is None else f"is for {found}"
            raise KeyFileError(
                f"the certificate {self.files.certificate} {holds}, but this is {identity}: give the certificate "
                f"that was issued for it, or correct --rig, --role or --camera"
            )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a client that checks its server by these authorities and shows this certificate, if any."""
        key_pem, chain_pem = self.pair_pem or (None, None)
        return grpc.ssl_channel_credentials(self.ca_pem, key_pem, chain_pem)


def is_host_name(text: str) -> bool:
    """Whether `text` can name a host: labels of 1 to 63 of A-Z a-z 0-9 _ -, between dots, 253 in all."""
    return _HOST_NAME.fullmatch(text) is not None


def certificate_files(
    ca: str | Path | None, certificate: str | Path | None, key: str | Path | None
) -> CertificateFiles | None:
    """The files that a person named, None for none: plaintext. Raises KeyFileError when one is missing."""
    if ca is None:
        if certificate is not None or key is not None:
            raise KeyFileError(
                "a certificate is of no use without the authority that the server is checked by"
            )
        return None
    return CertificateFiles(
        Path(ca),
        None if certificate is None else Path(certificate),
        None if key is None else Path(key),
    )


def load_certificates(files: CertificateFiles) -> Certificates:
    """Read the files. Raises KeyFileError when they cannot be used or do not fit; dates are not looked at."""
    return _parse(files, read_files(files.paths))


def watch_certificates(files: CertificateFiles) -> Watched[Certificates]:
    """Read the files now and whenever they change. Raises KeyFileError when they are not valid now."""

    def make(contents: tuple[bytes, ...]) -> Certificates:
        certificates = _parse(files, contents)
        certificates.check_dates()
        return certificates

    return Watched(files.paths, make)


def server_credentials(
    watched: Watched[Certificates], *, require_client_certificate: bool
) -> grpc.ServerCredentials:
    """For a server; connections made after the files have changed get what is in them then.

    Raises KeyFileError when there is no certificate among them.
    """
    latest = watched.current()
    configure = partial(_configuration, require_client_certificate=require_client_certificate)

    def fetch() -> grpc.ServerCertificateConfiguration | None:  # for every connection, on a thread of gRPC's
        nonlocal latest
        before, latest = latest, watched.current()
        return None if latest is before else configure(latest)

    return grpc.dynamic_ssl_server_credentials(
        configure(latest),
        fetch,  # type: ignore[arg-type]  # None, for no change, is missing in the stubs
        require_client_certificate,
    )


def credential_of(certificate: x509.Certificate) -> Credential:
    """Who a certificate names, and until when. Raises IdentityError when what it names is not one identity."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except ValueError as error:
        raise IdentityError("the certificate's names cannot be read") from error
    ours = [uri for uri in uris if uri.startswith(TRUST_DOMAIN)]
    if len(ours) > 1:
        raise IdentityError("the certificate names more than one identity")
    identity = Identity.parse(ours[0]) if ours else None
    return Credential(identity, certificate.not_valid_after_utc.timestamp())


def _configuration(
    certificates: Certificates, *, require_client_certificate: bool
) -> grpc.ServerCertificateConfiguration:
    if certificates.pair_pem is None:
        raise KeyFileError("a server needs a certificate and its key")
    return grpc.ssl_server_certificate_configuration(
        [certificates.pair_pem], certificates.ca_pem if require_client_certificate else None
    )


def _parse(files: CertificateFiles, contents: tuple[bytes, ...]) -> Certificates:
    authorities = _certificates(files.ca, contents[0])
    if files.certificate is None or files.key is None:
        return Certificates(files, contents[0], None, authorities, None)
    ca_pem, chain_pem, key_pem = contents
    own = _certificates(files.certificate, chain_pem)[0]
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise KeyFileError(f"the key {files.key} has a password: store it without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{files.key} holds no private key (PEM)") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise KeyFileError(f"the key {files.key} is of a kind that gRPC does not take: use ECDSA P-256")
    if key.public_key() != own.public_key():
        raise KeyFileError(f"the key {files.key} does not belong to the certificate {files.certificate}")
    return Certificates(files, ca_pem, (key_pem, chain_pem), authorities, own)


def _certificates(path: Path, pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise KeyFileError(f"{path} holds no certificate (PEM)") from error


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
