"""Who may call what, by what a call shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from ndsc.service.authority import Authority, Peer
from ndsc.service.certificates import PRIVATE, PUBLIC, make_token_keys
from ndsc.service.errors import PERMISSION_DENIED, UNAUTHENTICATED, RefusedError, reason_name
from ndsc.service.identity import Credential, Identity
from ndsc.service.tls import CertificateFiles
from ndsc.service.tokens import TokenVerifier, issue_token
from ndsc.v1.types_pb2 import ErrorReason
from tests import pki


class Context:
    """A call over TLS, or in plaintext, that shows what it is told to."""

    def __init__(
        self,
        certificate: CertificateFiles | None = None,
        authorization: str | None = None,
        *,
        tls: bool = True,
        address: str = "ipv4:127.0.0.1:5",
    ) -> None:
        self._proved: dict[str, list[bytes]] = {"transport_security_type": [b"ssl" if tls else b"insecure"]}
        if certificate is not None:
            assert certificate.certificate is not None
            self._proved["x509_pem_cert"] = [certificate.certificate.read_bytes()]
        self._metadata = () if authorization is None else (("authorization", authorization),)
        self._address = address

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._proved

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return self._address


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    return pki.Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    make_token_keys(folder)
    return folder


@pytest.fixture
def authority(keys: Path) -> Authority:
    return Authority(TokenVerifier(keys / PUBLIC))


@pytest.fixture
def bearer(keys: Path) -> str:
    return f"Bearer {issue_token(keys / PRIVATE, rig='rig', name='alice', valid_s=60)}"


def self_signed(*uris: str) -> bytes:
    """A certificate with these URIs among its names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + pki.HOUR)
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return certificate.public_bytes(Encoding.PEM)


def refusal(authority: Authority, context: Context, reason: ErrorReason, **wanted: Any) -> str:
    """The message of a refusal, which is logged as well."""
    with capture_logs() as logs, pytest.raises(RefusedError) as refused:
        authority.check(context, **wanted)
    assert refused.value.reason == reason
    message = str(refused.value)
    assert logs == [
        {
            "event": "call refused",
            "log_level": "warning",
            "peer": context.peer(),
            "reason": reason_name(reason),
            "message": message,
        }
    ]
    return message


def test_certificates(ca: pki.Authority, authority: Authority) -> None:
    left = Context(ca.node("camera", "left"))
    peer = authority.check(left, role="camera", rig="rig", name="left")
    assert peer.credential is not None
    assert peer.credential.identity == Identity("rig", "camera", "left")
    assert peer.rig == "rig"
    assert authority.check(left, role=("camera", "client")) == peer
    peer.check_current()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"role": "camera", "rig": "rig", "name": "right"}, "this is for camera rig/right"),
        ({"role": "camera", "rig": "other", "name": "left"}, "this is for camera other/left"),
        ({"role": "camera", "rig": "", "name": ""}, "this is for camera /"),
        ({"role": "side-information", "rig": "rig", "name": "left"}, "this is for side-information rig/left"),
        ({"role": "client", "rig": "rig"}, "this is for client rig/(any name)"),
        ({"role": "client"}, "this is for client (any rig)/(any name)"),
        (
            {"role": ("side-information", "client")},
            "this is for side-information (any rig)/(any name) or client ",
        ),
    ],
)
def test_another_role_rig_or_name(
    ca: pki.Authority, authority: Authority, wanted: dict[str, Any], message: str
) -> None:
    said = refusal(authority, Context(ca.node("camera", "left")), PERMISSION_DENIED, **wanted)
    assert said.startswith(message)
    assert said.endswith("; what the caller showed is for camera rig/left")


def test_a_certificate_that_names_no_role(ca: pki.Authority, authority: Authority) -> None:
    context = Context(ca.server())
    authority.authenticate(context)  # enough to be told how the service is
    said = refusal(authority, context, PERMISSION_DENIED, role="camera", rig="rig", name="left")
    assert said.endswith("what the caller showed names no rig, role and name")


def test_tokens(authority: Authority, bearer: str) -> None:
    for text in (bearer, bearer.replace("Bearer", "bearer")):
        assert authority.check(Context(authorization=text), role="client", rig="rig").rig == "rig"
    said = refusal(authority, Context(authorization=bearer), PERMISSION_DENIED, role="client", rig="other")
    assert said.endswith("what the caller showed is for client rig/alice")
    for role in ("camera", "side-information"):
        refusal(
            authority, Context(authorization=bearer), PERMISSION_DENIED, role=role, rig="rig", name="alice"
        )


def test_what_proves_nothing(ca: pki.Authority, authority: Authority, bearer: str) -> None:
    def said(context: Context, decider: Authority = authority) -> str:
        return refusal(decider, context, UNAUTHENTICATED, role="client")

    assert said(Context()) == "the caller showed neither a certificate nor a token"
    assert said(Context(authorization="Basic YTpi")).startswith("the token is no JSON Web Token")
    assert (
        said(Context(authorization=bearer), Authority()) == "this server takes no tokens: show a certificate"
    )
    both = Context(ca.node("client", "alice"), bearer)
    assert said(both) == "the caller showed a certificate and a token: show one of them"


def test_an_expired_certificate(ca: pki.Authority, authority: Authority) -> None:
    # The handshake refuses it; a connection may be older than the certificate's end.
    context = Context(ca.node("client", "alice", valid=-pki.HOUR))
    assert "expired" in refusal(authority, context, UNAUTHENTICATED, role="client")


def test_a_peer_expires_during_a_call() -> None:
    identity = Identity("rig", "client", "alice")
    Peer("ipv4:127.0.0.1:5").check_current()
    with pytest.raises(RefusedError, match="expired") as refused:
        Peer("ipv4:127.0.0.1:5", Credential(identity, 1.0)).check_current()
    assert refused.value.reason == UNAUTHENTICATED


@pytest.mark.parametrize(
    ("uris", "message"),
    [
        (["spiffe://ndsc/rig/camera/left", "spiffe://ndsc/rig/client/left"], "names more than one identity"),
        (
            ["spiffe://ndsc/rig/admin/left"],
            "role must be one of camera, side-information, client, not 'admin'",
        ),
        (["spiffe://ndsc/../camera/left"], "rig must be 1 to 64"),
    ],
)
def test_certificates_of_other_authorities(
    uris: list[str], message: str, ca: pki.Authority, authority: Authority, tmp_path: Path
) -> None:
    def context(*names: str) -> Context:
        path = tmp_path / "certificate.pem"
        path.write_bytes(self_signed(*names))
        return Context(CertificateFiles(ca.certificate, path, path))

    said = refusal(authority, context(*uris), UNAUTHENTICATED, role="camera")
    assert said.startswith("the caller's certificate is not usable: ")
    assert message in said
    elsewhere = context("spiffe://elsewhere/a", "spiffe://ndsc/rig/camera/left")
    assert authority.check(elsewhere, role="camera", rig="rig", name="left").rig == "rig"


async def test_what_a_peer_does_ends_with_its_time() -> None:
    identity = Identity("rig", "client", "alice")
    async with Peer("ipv4:127.0.0.1:5").while_current():
        await asyncio.sleep(0)
    with pytest.raises(RefusedError, match="expired") as refused:
        async with Peer("ipv4:127.0.0.1:5", Credential(identity, time.time() + 0.05)).while_current():
            await asyncio.Event().wait()
    assert refused.value.reason == UNAUTHENTICATED
    with pytest.raises(TimeoutError):  # of the block's own
        async with Peer("ipv4:127.0.0.1:5", Credential(identity, time.time() + 60)).while_current():
            raise TimeoutError


def test_plaintext(authority: Authority, bearer: str) -> None:
    peer = authority.check(Context(tls=False), role="camera", rig="rig", name="left")
    assert (peer.credential, peer.rig) == (None, "")
    said = refusal(authority, Context(authorization=bearer, tls=False), UNAUTHENTICATED, role="client")
    assert said.startswith("tokens are taken over TLS alone")


def test_refusals_are_logged_now_and_then(authority: Authority) -> None:
    with capture_logs() as logs:
        for address in ("ipv4:127.0.0.1:5", "ipv4:127.0.0.1:6", "ipv4:10.0.0.1:5"):
            for _ in range(3):
                with pytest.raises(RefusedError):
                    authority.check(Context(address=address), role="client")
    assert [log["peer"] for log in logs] == ["ipv4:127.0.0.1:5", "ipv4:10.0.0.1:5"]


def test_the_memory_of_refusals_is_bounded(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndsc.service.authority._MAX_LOGS", 2)
    for host in range(5):
        with pytest.raises(RefusedError):
            authority.check(Context(address=f"ipv4:10.0.0.{host}:5"), role="client")
    assert len(authority._logs) <= 2
