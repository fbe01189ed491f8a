"""Certificate files: what fits, what does not, and what changes under a running process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from structlog.testing import capture_logs

from ndsc.service.identity import Identity
from ndsc.service.tls import (
    CertificateFiles,
    certificate_files,
    load_certificates,
    server_credentials,
    watch_certificates,
)
from ndsc.service.watched import KeyFileError
from tests.pki import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def problem(files: CertificateFiles) -> str:
    with pytest.raises(KeyFileError) as refused:
        watch_certificates(files)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_node_has_its_identity(authority: Authority) -> None:
    certificates = load_certificates(authority.node("camera", "left"))
    certificates.check_dates()
    certificates.require_identity(Identity("rig", "camera", "left"))
    assert certificates.expiry_warning() is None


@pytest.mark.parametrize(
    "other",
    [
        Identity("rig", "camera", "right"),
        Identity("rig", "side-information", "left"),
        Identity("other", "camera", "left"),
    ],
)
def test_a_node_with_the_certificate_of_another(authority: Authority, other: Identity) -> None:
    files = authority.node("camera", "left")
    with pytest.raises(
        KeyFileError, match=r"is for camera rig/left, but this is .*--rig, --role or --camera"
    ):
        load_certificates(files).require_identity(other)
    with pytest.raises(KeyFileError, match="names no rig, role and name"):
        load_certificates(authority.server()).require_identity(other)


def test_files_that_are_missing(authority: Authority, tmp_path: Path) -> None:
    files = authority.server()
    absent = tmp_path / "nowhere.pem"
    for incomplete in (
        replace(files, ca=absent),
        replace(files, certificate=absent),
        replace(files, key=absent),
    ):
        assert problem(incomplete) == f"{absent} cannot be read: No such file or directory"
    with pytest.raises(KeyFileError, match="go together"):
        CertificateFiles(files.ca, files.certificate)
    with pytest.raises(KeyFileError, match="of no use without the authority"):
        certificate_files(None, files.certificate, files.key)
    assert certificate_files(None, None, None) is None
    assert certificate_files(str(files.ca), None, None) == CertificateFiles(files.ca)


def test_files_that_hold_something_else(authority: Authority) -> None:
    files = authority.server()
    assert files.certificate is not None
    assert files.key is not None
    swapped = CertificateFiles(files.ca, files.key, files.certificate)
    assert problem(swapped) == f"{files.key} holds no certificate (PEM)"
    assert problem(CertificateFiles(files.ca, files.certificate, files.ca)) == (
        f"{files.ca} holds no private key (PEM)"
    )
    other = authority.server()
    assert problem(CertificateFiles(files.ca, files.certificate, other.key)) == (
        f"the key {other.key} does not belong to the certificate {files.certificate}"
    )
    files.ca.write_bytes(b"")
    assert problem(files) == f"{files.ca} holds no certificate (PEM)"


def test_keys_that_grpc_does_not_take(authority: Authority) -> None:
    files = authority.server()
    assert files.key is not None
    secret = BestAvailableEncryption(b"secret")
    locked = ec.generate_private_key(ec.SECP256R1())
    files.key.write_bytes(locked.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    assert problem(files) == f"the key {files.key} has a password: store it without one"
    other = Ed25519PrivateKey.generate()
    files.key.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert problem(files) == f"the key {files.key} is of a kind that gRPC does not take: use ECDSA P-256"


def test_dates(authority: Authority) -> None:
    expired = authority.server(valid=timedelta(seconds=-1))
    assert problem(expired).startswith(f"the certificate {expired.certificate} expired on 20")
    soon = load_certificates(authority.server(valid=timedelta(seconds=20)))
    soon.check_dates()
    warning = soon.expiry_warning()
    assert warning is not None
    assert "0.0 days from now: issue a new one" in warning
    past = load_certificates(expired).expiry_warning()
    assert past is not None
    assert "in the past" in past
    assert load_certificates(CertificateFiles(expired.ca)).expiry_warning() is None


def test_secrets_are_not_shown(authority: Authority) -> None:
    files = authority.server()
    assert files.key is not None
    shown = repr(load_certificates(files)) + repr(watch_certificates(files))
    assert files.key.read_text().splitlines()[1] not in shown


def test_changed_files_are_read_again(authority: Authority, tmp_path: Path) -> None:
    files = authority.node()
    watched = watch_certificates(files)
    first = watched.current()
    assert watched.current() is first
    with capture_logs() as logs:
        authority.node(folder=files.ca.parent)
        second = watched.current()
        assert second.own is not None
        assert first.own is not None
        assert second.own.serial_number != first.own.serial_number
        assert watched.current() is second
    assert [log["event"] for log in logs] == ["keys read again"]


def test_half_a_renewal_changes_nothing(authority: Authority, tmp_path: Path) -> None:
    files, newer = authority.node(), authority.node()
    assert newer.certificate is not None
    assert newer.key is not None
    assert files.certificate is not None
    assert files.key is not None
    watched = watch_certificates(files)
    first = watched.current()
    with capture_logs() as logs:
        shutil.copy(newer.certificate, files.certificate)
        assert watched.current() is first
        assert watched.current() is first
        files.key.unlink()
        assert watched.current() is first
        shutil.copy(newer.key, files.key)
        assert watched.current().own == load_certificates(newer).own
    assert [(log["log_level"], log.get("problem", "")) for log in logs] == [
        ("warning", f"the key {files.key} does not belong to the certificate {files.certificate}"),
        ("warning", f"{files.key} cannot be read: No such file or directory"),
        ("info", ""),
    ]


def test_an_expired_renewal_is_not_taken(authority: Authority) -> None:
    files = authority.node()
    watched = watch_certificates(files)
    first = watched.current()
    with capture_logs() as logs:
        authority.node(folder=files.ca.parent, valid=timedelta(seconds=-1))
        assert watched.current() is first
    assert "expired on" in logs[0]["problem"]


def test_a_server_needs_a_certificate(authority: Authority) -> None:
    watched = watch_certificates(CertificateFiles(authority.certificate))
    with pytest.raises(KeyFileError, match="a server needs a certificate"):
        server_credentials(watched, require_client_certificate=True)
