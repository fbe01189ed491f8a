"""Why a TLS connection does not come about. gRPC says UNAVAILABLE to all of it, as when a server is down."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ndsc.service.settings import split_address
from ndsc.service.tls import CertificateFiles, Certificates, load_certificates
from ndsc.service.watched import KeyFileError

# How every HTTP/2 client begins: the preface, and SETTINGS without a setting.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))

# OpenSSL's X509_V_ERR_…, the verify_code of ssl.SSLCertVerificationError.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAMES: Final = (62, 64)
_ISSUER_UNKNOWN: Final = (2, 18, 19, 20, 21)


def diagnose(
    address: str, files: CertificateFiles | None, timeout_s: float = 3.0, *, name: str | None = None
) -> str | None:
    """Connect to "host:port" as gRPC did, to see why it failed. Blocks, a few times `timeout_s` at most.

    `files` are those the caller connects with, None for plaintext; `name` is that of the server's certificate,
    the host without. Returns one line that says what is wrong with TLS there and what to do about it; None when
    it is not TLS: nothing listens, say, or it is stopped.
    """
    try:
        certificates = None if files is None else load_certificates(files)
        if certificates is not None:
            certificates.check_dates()
    except KeyFileError as error:
        return str(error)
    try:
        with socket.create_connection(split_address(address), timeout_s) as connection:
            if certificates is None:
                return _without_tls(address, connection)
            return _with_tls(address, name or split_address(address)[0], connection, certificates)
    except (OSError, ValueError):
        return None


def _without_tls(address: str, connection: socket.socket) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whoever it is, nothing is sent
    with context.wrap_socket(connection):
        return (
            f"the server at {address} speaks TLS, and this side does not: give --tls-ca with --tls-certificate "
            f"and --tls-key, or with a token"
        )


def _with_tls(address: str, name: str, connection: socket.socket, certificates: Certificates) -> str | None:
    files = certificates.files
    context = ssl.create_default_context(cafile=files.ca)
    context.set_alpn_protocols(["h2"])
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key)
    try:
        server = context.wrap_socket(connection, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        return _their_certificate(address, name, error, certificates)
    except ssl.SSLEOFError:
        return (
            f"the server at {address} broke off the TLS handshake: see its log, and what runs at that address"
        )
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return (
                f"the server at {address} does not speak TLS, and this side does: give the server "
                f"--tls-ca, --tls-certificate and --tls-key, or check the address"
            )
        return f"the TLS handshake with {address} failed: {error.reason}"
    with server:
        # By TLS 1.3 a server looks at our certificate when for us the handshake is over.
        try:
            server.sendall(_PREFACE)
            accepted = server.recv(1) != b""
        except TimeoutError:
            return None
        except OSError:
            accepted = False
    return None if accepted else _our_certificate(address, certificates)


def _their_certificate(
    address: str, name: str, error: ssl.SSLCertVerificationError, certificates: Certificates
) -> str:
    if error.verify_code == _EXPIRED:
        return f"the certificate of the server at {address} has expired: put a new one there"
    if error.verify_code == _NOT_YET_VALID:
        return (
            f"the certificate of the server at {address} is not valid yet: check the clocks of both machines"
        )
    if error.verify_code in _OTHER_NAMES:
        return (
            f"the certificate of the server at {address} is not for {name}: issue one that names it "
            f"(`ndsc certificates server --hosts`), or use the name it is for"
        )
    if error.verify_code in _ISSUER_UNKNOWN:
        return (
            f"the certificate of the server at {address} is from none of the authorities in "
            f"{certificates.files.ca}: put the authority there that issued it"
        )
    return f"the certificate of the server at {address} is not accepted: {error.verify_message}"


def _our_certificate(address: str, certificates: Certificates) -> str:
    """A gRPC server just closes the connection, so that what it disliked has to be concluded."""
    if certificates.pair_pem is None:
        return (
            f"the server at {address} wants a certificate: give --tls-certificate and --tls-key, or use the "
            f"server's address for tokens"
        )
    last = x509.load_pem_x509_certificates(certificates.pair_pem[1])[-1]
    issuer = last.issuer.rfc4514_string()
    if not any(_issued(last, authority) for authority in certificates.authorities):
        return (
            f"the server at {address} refuses the certificate {certificates.files.certificate}: it is from "
            f"{issuer}, none of the authorities in {certificates.files.ca}; issue one from the server's authority"
        )
    return (
        f"the server at {address} refuses the certificate {certificates.files.certificate}: its --tls-ca lacks "
        f"the authority {issuer}, or its clock is wrong"
    )


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
