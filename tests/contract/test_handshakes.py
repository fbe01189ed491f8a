"""TLS between a real server and real clients on loopback: who is let in, and what the others are told."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from structlog.testing import capture_logs

import ndsc.service.server
from ndsc.client import Client
from ndsc.service.authority import Authority
from ndsc.service.certificates import PRIVATE, PUBLIC, make_token_keys
from ndsc.service.channel import open_channel
from ndsc.service.errors import RefusedError, ServiceError, UnreachableError, abort
from ndsc.service.health import check_health
from ndsc.service.server import ServiceServer, create_server
from ndsc.service.tls import CertificateFiles, Certificates, load_certificates, watch_certificates
from ndsc.service.tokens import TokenVerifier, issue_token
from ndsc.service.watched import KeyFileError
from ndsc.v1.catalog_pb2 import ListStreamsRequest, ListStreamsResponse, StreamInfo
from ndsc.v1.catalog_pb2_grpc import (
    CatalogServiceServicer,
    CatalogServiceStub,
    add_CatalogServiceServicer_to_server,
)
from tests import pki

PAGE = Path(__file__).parents[2] / "docs" / "SECURITY.md"
DOCUMENTED = [
    ".*".join(map(re.escape, line.split("…")))
    for line in re.findall(r"^\| `((?:the|no) .*?)` \|", PAGE.read_text(), re.MULTILINE)
]
"""What an operator may be told, as patterns."""


class Greeter(CatalogServiceServicer):
    """Tells a client of a rig who it is, in place of a list of streams."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def ListStreams(  # noqa: N802
        self, request: ListStreamsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ListStreamsResponse:
        try:
            peer = self._authority.check(context, role=("camera", "client"), rig=request.rig or None)
        except RefusedError as error:
            await abort(context, error.reason, str(error))
        known = None if peer.credential is None else peer.credential.identity
        return ListStreamsResponse(
            streams=[StreamInfo(rig=peer.rig, camera="" if known is None else known.name)]
        )


@asynccontextmanager
async def serve(
    files: CertificateFiles | None, *, token_key: Path | None = None
) -> AsyncIterator[ServiceServer]:
    """A server; with a token key it has an address for clients as well."""
    authority = Authority(None if token_key is None else TokenVerifier(token_key))
    server = await create_server(
        listen="127.0.0.1:0",
        register=lambda grpc_server: add_CatalogServiceServicer_to_server(
            Greeter(authority),  # type: ignore[abstract]  # one method is enough here
            grpc_server,
        ),
        service_names=(),
        reflect=True,
        certificates=None if files is None else watch_certificates(files),
        authority=authority,
        listen_clients=None if token_key is None else "127.0.0.1:0",
    )
    try:
        yield server
    finally:
        await server.stop()


async def name_of(channel: grpc.aio.Channel) -> str:
    """Who the server takes this channel's owner for."""
    answer = await CatalogServiceStub(channel).ListStreams(ListStreamsRequest(), timeout=10)
    return answer.streams[0].camera


async def why_not(address: str, files: CertificateFiles | None, name: str | None = None) -> str:
    """The line that tells why a caller with these files does not get through."""
    certificates = None if files is None else load_certificates(files)
    with pytest.raises(UnreachableError) as refused:
        await check_health(address, certificates=certificates, name=name)
    line = str(refused.value)
    assert line.isprintable()
    assert any(re.match(row, line) for row in DOCUMENTED), line
    return line


@pytest.fixture
def ca(tmp_path: Path) -> pki.Authority:
    return pki.Authority(tmp_path / "pki")


@pytest.fixture
def foreign(tmp_path: Path) -> pki.Authority:
    return pki.Authority(tmp_path / "foreign")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_token_keys(tmp_path / "tokens")
    return tmp_path / "tokens"


def local(server: ServiceServer) -> str:
    return f"127.0.0.1:{server.port}"


def local_clients(server: ServiceServer) -> str:
    return f"127.0.0.1:{server.clients_port}"


async def test_a_known_peer_gets_through(ca: pki.Authority) -> None:
    async with serve(ca.server()) as server:
        for files in (ca.node("camera", "left"), ca.node("client", "alice")):
            assert await check_health(local(server), certificates=load_certificates(files)) == "NOT_SERVING"
        async with open_channel(local(server), load_certificates(ca.node("camera", "left"))) as channel:
            assert await name_of(channel) == "left"
        # With its own certificate a server asks after its own health, and no more.
        async with open_channel(local(server), load_certificates(ca.server())) as channel:
            assert await check_health(local(server), certificates=load_certificates(ca.server()))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await name_of(channel)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_no_certificate(ca: pki.Authority) -> None:
    async with serve(ca.server()) as server:
        assert await why_not(local(server), CertificateFiles(ca.certificate)) == (
            f"the server at {local(server)} wants a certificate: give --tls-certificate and --tls-key, or use "
            f"the server's address for tokens"
        )


async def test_a_certificate_of_another_authority(ca: pki.Authority, foreign: pki.Authority) -> None:
    files = replace(foreign.node("camera", "left"), ca=ca.certificate)
    issuer = load_certificates(CertificateFiles(foreign.certificate)).authorities[0].subject.rfc4514_string()
    async with serve(ca.server()) as server:
        assert await why_not(local(server), files) == (
            f"the server at {local(server)} refuses the certificate {files.certificate}: it is from {issuer}, "
            f"none of the authorities in {ca.certificate}; issue one from the server's authority"
        )
    async with serve(replace(ca.server(), ca=foreign.certificate)) as server:
        files = ca.node("camera", "left")
        issuer = load_certificates(files).authorities[0].subject.rfc4514_string()
        assert await why_not(local(server), files) == (
            f"the server at {local(server)} refuses the certificate {files.certificate}: its --tls-ca lacks the "
            f"authority {issuer}, or its clock is wrong"
        )


async def test_an_expired_certificate(ca: pki.Authority) -> None:
    files = ca.node("camera", "left", valid=-pki.HOUR)
    async with serve(ca.server()) as server:
        line = await why_not(local(server), files)
    assert line.startswith(f"the certificate {files.certificate} expired on 20")
    assert line.endswith(": issue a new one (`ndsc certificates`)")


async def test_a_server_of_another_authority(ca: pki.Authority, foreign: pki.Authority) -> None:
    async with serve(foreign.server()) as server:
        assert await why_not(local(server), ca.node("camera", "left")) == (
            f"the certificate of the server at {local(server)} is from none of the authorities in "
            f"{ca.folder / '1' / 'ca.pem'}: put the authority there that issued it"
        )


async def test_a_server_of_another_name(ca: pki.Authority) -> None:
    async with serve(ca.server(hosts=("decoder.example", "10.0.0.5"))) as server:
        for host in ("127.0.0.1", "localhost"):
            address = f"{host}:{server.port}"
            assert await why_not(address, ca.node("camera", "left")) == (
                f"the certificate of the server at {address} is not for {host}: issue one that names it "
                f"(`ndsc certificates server --hosts`), or use the name it is for"
            )


async def test_a_client_posing_as_a_server(ca: pki.Authority) -> None:
    async with serve(ca.node("client", "alice")) as server:
        line = await why_not(local(server), ca.node("camera", "left"))
    assert line.startswith(f"the certificate of the server at {local(server)} is not ")


async def test_a_name_that_is_not_the_address(ca: pki.Authority) -> None:
    """As behind a proxy: one certificate for the names of all rigs."""
    mine = ca.node("client", "alice")
    known = load_certificates(mine)
    async with serve(ca.server(hosts=("*.decoder.example",))) as server:
        address = local(server)
        assert await check_health(address, certificates=known, name="rig.decoder.example") == "NOT_SERVING"
        assert "is not for 127.0.0.1: issue one" in await why_not(address, mine)
        line = await why_not(address, mine, "rig.other.example")
        assert line.startswith(f"the certificate of the server at {address} is not for rig.other.example: ")

        def asked() -> str:
            files = {"tls_ca": mine.ca, "tls_certificate": mine.certificate, "tls_key": mine.key}
            with Client(address, **files, tls_server_name="rig.decoder.example") as client:  # type: ignore[arg-type]
                return client.streams("rig")[0].camera

        assert await asyncio.to_thread(asked) == "alice"


async def test_the_name_is_what_a_connection_asks_for(ca: pki.Authority) -> None:
    """A proxy that does not read TLS sees no more than that."""
    files, asked = ca.server(hosts=("rig.decoder.example",)), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert files.certificate is not None
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    context.sni_callback = lambda _connection, name, _context: asked.append(name)

    def listen(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = asyncio.create_task(asyncio.to_thread(listen, listener))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        for name in ("rig.decoder.example", None):
            with pytest.raises(UnreachableError):
                await check_health(address, certificates=load_certificates(ca.node()), name=name)
        listener.shutdown(socket.SHUT_RDWR)
        await listening
    # Of the call and of the diagnosis; an address is no name to ask for.
    assert set(asked) == {"rig.decoder.example", None}
    assert asked.count("rig.decoder.example") >= 2


async def test_an_expired_server(ca: pki.Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as careless:
        careless.setattr(Certificates, "check_dates", lambda self: None)
        expired = watch_certificates(ca.server(valid=-pki.HOUR))
    with capture_logs() as logs:
        server = await create_server(
            listen="127.0.0.1:0",
            register=lambda _: None,
            service_names=(),
            reflect=False,
            certificates=expired,
        )
        try:
            line = await why_not(local(server), ca.node("camera", "left"))
        finally:
            await server.stop()
    assert line == f"the certificate of the server at {local(server)} has expired: put a new one there"
    (log,) = logs
    assert (log["event"], log["log_level"]) == ("certificate to be renewed", "warning")
    assert "in the past: issue a new one" in log["problem"]


async def test_one_side_in_plaintext(ca: pki.Authority) -> None:
    async with serve(None) as server:
        assert await why_not(local(server), ca.node("camera", "left")) == (
            f"the server at {local(server)} does not speak TLS, and this side does: give the server --tls-ca, "
            f"--tls-certificate and --tls-key, or check the address"
        )
        assert await check_health(local(server)) == "NOT_SERVING"
    async with serve(ca.server()) as server:
        assert await why_not(local(server), None) == (
            f"the server at {local(server)} speaks TLS, and this side does not: give --tls-ca with "
            f"--tls-certificate and --tls-key, or with a token"
        )


async def test_nothing_is_there(ca: pki.Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    for files in (ca.node("camera", "left"), None):
        assert (await why_not(address, files)).startswith(f"no service answers at {address}: start it with")


async def test_new_files_without_a_restart(ca: pki.Authority, foreign: pki.Authority) -> None:
    files = ca.server()
    old, new = load_certificates(ca.node("camera", "left")), load_certificates(foreign.node("camera", "left"))
    async with serve(files) as server, open_channel(local(server), old) as before:
        assert await name_of(before) == "left"
        with capture_logs() as logs:
            files.ca.write_bytes(foreign.certificate.read_bytes())
            foreign.server(files.ca.parent)
            assert await check_health(local(server), certificates=new) == "NOT_SERVING"
        assert [log["event"] for log in logs] == ["keys read again"]
        with pytest.raises(UnreachableError, match="from none of the authorities"):
            await check_health(local(server), certificates=old)
        assert await name_of(before) == "left"  # connections that are there stay


async def test_half_a_renewal_disturbs_nobody(ca: pki.Authority) -> None:
    files = ca.server()
    node = load_certificates(ca.node("camera", "left"))
    async with serve(files) as server:
        with capture_logs() as logs:
            files.ca.write_bytes(b"half a certifi")
            for _ in range(2):
                assert await check_health(local(server), certificates=node) == "NOT_SERVING"
        assert [log["problem"] for log in logs] == [f"{files.ca} holds no certificate (PEM)"]


async def test_a_node_shows_its_new_certificate(ca: pki.Authority) -> None:
    watched = watch_certificates(ca.node("camera", "left"))
    async with serve(ca.server()) as server, open_channel(local(server), watched.current()) as before:
        assert await name_of(before) == "left"
        ca.node("camera", "right", folder=watched.current().files.ca.parent)
        async with open_channel(local(server), watched.current()) as after:
            assert await name_of(after) == "right"


async def test_an_endless_handshake_is_cut_short(ca: pki.Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndsc.service.server, "HANDSHAKE_TIMEOUT_MS", 200)
    async with serve(ca.server()) as server:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"\x16\x03\x01")  # the first bytes of a handshake
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert 0.1 < time.monotonic() - began < 5
        writer.close()


async def test_tokens(ca: pki.Authority, keys: Path) -> None:
    def token(valid_s: float = 60) -> str:
        return issue_token(keys / PRIVATE, rig="rig", name="alice", valid_s=valid_s)

    trusting = load_certificates(CertificateFiles(ca.certificate))
    async with serve(ca.server(), token_key=keys / PUBLIC) as server:
        address = local_clients(server)
        assert await check_health(address, certificates=trusting, token=token()) == "NOT_SERVING"
        async with open_channel(address, trusting, token()) as channel:
            assert await name_of(channel) == "alice"
        with pytest.raises(UnreachableError, match="wants a certificate"):
            await check_health(local(server), certificates=trusting, token=token())
        for refused, line in (
            (None, "the caller showed neither a certificate nor a token"),
            (token(valid_s=-1), "the token has expired: issue a new one (`ndsc token issue`)"),
            ("no.such.token", "the token is no JSON Web Token of `ndsc token issue`"),
        ):
            with capture_logs() as logs, pytest.raises(ServiceError) as error:
                await check_health(address, certificates=trusting, token=refused)
            assert (error.value.reason, str(error.value)) == ("UNAUTHENTICATED", line)
            assert not error.value.retryable
            assert [(log["event"], log["reason"], log["message"]) for log in logs] == [
                ("call refused", "UNAUTHENTICATED", line)
            ]
            assert refused is None or refused not in repr(logs)


async def test_a_token_travels_over_tls_alone(ca: pki.Authority, keys: Path) -> None:
    token = issue_token(keys / PRIVATE, rig="rig", name="alice", valid_s=60)
    with pytest.raises(KeyFileError, match="a token travels only over TLS"):
        await check_health("127.0.0.1:1", token=token)
    with pytest.raises(KeyFileError, match="not both"):
        await check_health("127.0.0.1:1", certificates=load_certificates(ca.node()), token=token)
    async with serve(None) as server, open_channel(local(server)) as channel:
        with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as refused:
            await CatalogServiceStub(channel).ListStreams(
                ListStreamsRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=10
            )
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert [log["event"] for log in logs] == ["call refused"]
        assert token not in repr(logs)
        assert await name_of(channel) == ""


async def test_strangers_are_told_nothing_of_the_services(ca: pki.Authority, keys: Path) -> None:
    trusting = load_certificates(CertificateFiles(ca.certificate))
    async with (
        serve(ca.server(), token_key=keys / PUBLIC) as server,
        open_channel(local_clients(server), trusting) as channel,
    ):
        info: Any = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        # Not by `call.write`: the refusal may come before it is done, and it would raise it first.
        call = info(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_python_client(ca: pki.Authority, keys: Path) -> None:
    alice = ca.node("client", "alice")
    async with serve(ca.server(), token_key=keys / PUBLIC) as server:

        def name(address: str, rig: str = "rig", **credentials: Any) -> str:
            with Client(address, **credentials) as client:
                return client.streams(rig)[0].camera

        async def asked(address: str, **arguments: Any) -> str:
            return await asyncio.to_thread(name, address, **arguments)

        certificate = {"tls_ca": alice.ca, "tls_certificate": alice.certificate, "tls_key": alice.key}
        assert await asked(local(server), **certificate) == "alice"
        token = issue_token(keys / PRIVATE, rig="rig", name="bob", valid_s=60)
        assert await asked(local_clients(server), tls_ca=str(alice.ca), token=token) == "bob"
        with pytest.raises(ServiceError, match="what the caller showed is for client rig/alice") as refused:
            await asked(local(server), rig="other", **certificate)
        assert (refused.value.reason, refused.value.retryable) == ("PERMISSION_DENIED", False)
        with pytest.raises(UnreachableError, match="speaks TLS, and this side does not"):
            await asked(local(server))
        with pytest.raises(UnreachableError, match="wants a certificate"):
            await asked(local(server), tls_ca=alice.ca)
        with pytest.raises(KeyFileError, match="go together"):
            await asked(local(server), tls_ca=alice.ca, tls_key=alice.key)
