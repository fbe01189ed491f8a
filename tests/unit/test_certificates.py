"""`ndsc certificates` and `ndsc token`: what they write, and what they refuse."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from ndsc.cli import app
from ndsc.codec.errors import NdscError, OutputError
from ndsc.service.certificates import CERTIFICATE, KEY, PRIVATE, PUBLIC
from ndsc.service.identity import Identity, IdentityError
from ndsc.service.tls import CertificateFiles, Certificates, credential_of, load_certificates
from ndsc.service.tokens import TokenVerifier, read_token
from ndsc.service.watched import KeyFileError


def run(*arguments: object) -> str:
    """What `ndsc …` prints. Raises what the command raises."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    folder = tmp_path / "ca"
    assert run("certificates", "ca", folder) == f"{folder}: certificate.pem, key.pem\n"
    return folder


def issued(folder: Path) -> Certificates:
    """The files that a command left in a folder, all fit to be used."""
    certificates = load_certificates(CertificateFiles(folder / "ca.pem", folder / CERTIFICATE, folder / KEY))
    certificates.check_dates()
    assert certificates.own is not None
    certificates.own.verify_directly_issued_by(certificates.authorities[0])
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600
    return certificates


def names(certificate: x509.Certificate | None) -> x509.SubjectAlternativeName:
    assert certificate is not None
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


@pytest.mark.parametrize("role", ["camera", "side-information", "client"])
def test_certificates_of_peers(role: str, ca: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "peer"
    said = run("certificates", role, folder, "--ca", ca, "--rig", "rig", "--name", "left", "--days", 3)
    assert said == f"{folder}: ca.pem, certificate.pem, key.pem for {role} rig/left, 3 days\n"
    own = issued(folder).own
    assert own is not None
    assert credential_of(own).identity == Identity.parse(f"spiffe://ndsc/rig/{role}/left")
    hosts = [] if role == "client" else ["localhost"]  # clients serve nobody
    assert names(own).get_values_for_type(x509.DNSName) == hosts
    assert (own.not_valid_after_utc - own.not_valid_before_utc).days == 3


def test_a_server_certificate(ca: Path, tmp_path: Path) -> None:
    folder = tmp_path / "decoder"
    hosts = "decoder.example, *.decoder.example,10.0.0.5,::1"
    run("certificates", "server", folder, "--ca", ca, "--hosts", hosts)
    own = issued(folder).own
    assert own is not None
    assert credential_of(own).identity is None
    assert names(own).get_values_for_type(x509.DNSName) == ["decoder.example", "*.decoder.example"]
    assert [str(ip) for ip in names(own).get_values_for_type(x509.IPAddress)] == ["10.0.0.5", "::1"]


def test_nothing_is_overwritten(ca: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    command = ("certificates", "client", folder, "--ca", ca, "--rig", "rig", "--name", "alice")
    run(*command)
    before = {path: path.read_bytes() for path in (*folder.iterdir(), *ca.iterdir())}
    with pytest.raises(OutputError, match="exists: choose another folder"):
        run(*command)
    with pytest.raises(OutputError, match="exists: choose another folder"):
        run("certificates", "ca", ca)
    assert {path: path.read_bytes() for path in before} == before
    assert set(folder.iterdir()) | set(ca.iterdir()) == set(before)


def test_a_renewal_keeps_the_authorities(ca: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    command = ("certificates", "client", folder, "--ca", ca, "--rig", "rig", "--name", "alice")
    run(*command)
    first = issued(folder)
    (folder / "ca.pem").write_bytes((folder / "ca.pem").read_bytes() * 2)
    run(*command, "--replace")
    second = issued(folder)
    assert second.own != first.own
    assert len(second.authorities) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--rig", "..", "--name", "left"], IdentityError, "rig must be"),
        (["--rig", "rig", "--name", "a/b"], IdentityError, "name must be"),
        (["--rig", "rig", "--name", "left", "--hosts", "a/b"], KeyFileError, "'a/b' is no host name"),
        (["--rig", "rig", "--name", "left", "--hosts", "*"], KeyFileError, r"'\*' is no host name"),
        (["--rig", "rig", "--name", "left", "--hosts", "a.*.b"], KeyFileError, r"'a\.\*\.b' is no host name"),
        (["--rig", "rig", "--name", "left", "--days", "9999"], KeyFileError, "ask for fewer days"),
        (
            ["--rig", "rig", "--name", "left", "--ca", "nowhere"],
            KeyFileError,
            "nowhere/certificate.pem cannot",
        ),
    ],
)
def test_what_cannot_be_issued(
    arguments: list[str], error: type[NdscError], message: str, ca: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run("certificates", "camera", tmp_path / "peer", "--ca", ca, *arguments)
    assert not (tmp_path / "peer").exists()


def test_tokens(tmp_path: Path) -> None:
    keys, file = tmp_path / "keys", tmp_path / "alice.token"
    assert run("token", "keys", keys) == f"{keys}: private.pem, public.pem\n"
    said = run("token", "issue", "--key", keys / PRIVATE, "--rig", "rig", "--name", "alice", "-o", file)
    assert said == f"{file}: token for client rig/alice, 12 hours\n"
    for secret in (file, keys / PRIVATE):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert TokenVerifier(keys / PUBLIC).verify(read_token(file)).identity == Identity(
        "rig", "client", "alice"
    )
    with pytest.raises(OutputError, match="exists"):
        run("token", "keys", keys)
