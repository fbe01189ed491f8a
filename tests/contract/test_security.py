"""The services under TLS: each role kept to its part, as docs/SECURITY.md says, and no secret in a log."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory
from structlog.testing import capture_logs

from decoder_service.server import DecoderServer
from decoder_service.settings import DecoderSettings
from ndsc.codec.bitstream import CompressedFrame
from ndsc.service.certificates import PRIVATE, PUBLIC, make_token_keys
from ndsc.service.channel import open_channel
from ndsc.service.errors import describe
from ndsc.service.health import check_health
from ndsc.service.identity import ROLES, Role
from ndsc.service.tls import CertificateFiles, Certificates, load_certificates
from ndsc.service.tokens import issue_token
from ndsc.v1 import catalog_pb2, decode_pb2, frame_stream_pb2, node_pb2, side_information_pb2
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from tests import pki
from tests.contract.decoder_node import CameraNode, camera_open, compressed_message

TIMEOUT_S = 20.0
PAGE = Path(__file__).parents[2] / "docs" / "SECURITY.md"
CONTRACT = (frame_stream_pb2, side_information_pb2, decode_pb2, catalog_pb2, node_pb2)
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def contract() -> Iterator[tuple[str, Any]]:
    """("DecodeService.Decode", its descriptor) for every call there is."""
    for module in CONTRACT:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"{service.name}.{method.name}", method


CALLS = dict(contract())


def documented() -> dict[str, set[str]]:
    """The page's table: call → roles that may make it."""
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    return {
        call: {role for role, cell in zip(ROLES, cells, strict=True) if cell != "–"} for call, *cells in rows
    }


ALLOWED = documented()


@pytest.fixture
def ca(tmp_path: Path) -> pki.Authority:
    return pki.Authority(tmp_path / "pki")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_token_keys(tmp_path / "tokens")
    return tmp_path / "tokens"


def flags(files: CertificateFiles) -> dict[str, Any]:
    return {"tls_ca": files.ca, "tls_certificate": files.certificate, "tls_key": files.key}


@pytest.fixture
async def decoder(ca: pki.Authority, keys: Path, tiny_bundle_path: Path) -> AsyncIterator[DecoderServer]:
    """A decoder with both addresses."""
    settings: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "listen_clients": "127.0.0.1:0",
        "token_key": keys / PUBLIC,
        "bundle": (tiny_bundle_path,),
        "threads": 1,
    }
    server = DecoderServer.load(DecoderSettings(**settings, **flags(ca.server())))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
        await server.start()
        stack.push_async_callback(server.server.stop)
        await server.warm_up()
        yield server


def address(decoder: DecoderServer) -> str:
    return f"127.0.0.1:{decoder.server.port}"


def clients_address(decoder: DecoderServer) -> str:
    return f"127.0.0.1:{decoder.server.clients_port}"


async def outcome(channel: grpc.aio.Channel, call: str, rig: str, name: str) -> grpc.StatusCode:
    """What comes of a call about `name` in `rig`; OK once something was answered."""
    method = CALLS[call]
    request: Any = message_factory.GetMessageClass(method.input_type)()
    for part in (getattr(request, "open", None), request, getattr(request, "side_reference", None)):
        if part is not None and "rig" in part.DESCRIPTOR.fields_by_name:
            part.rig = rig
            if "camera" in part.DESCRIPTOR.fields_by_name:
                part.camera = name
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    started = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    try:
        if method.client_streaming:
            running = started(timeout=TIMEOUT_S)
            await running.write(request)
            await running.read()
        elif method.server_streaming:
            running = started(request, timeout=TIMEOUT_S)
            await running.read()
        else:
            await started(request, timeout=TIMEOUT_S)
            return grpc.StatusCode.OK
        running.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code()
    except asyncio.InvalidStateError:  # refused before the request was written
        code: grpc.StatusCode = await running.code()
        return code
    return grpc.StatusCode.OK


DECODER_CALLS = [call for call in CALLS if not call.startswith("NodeService.")]


def test_the_page_names_every_call() -> None:
    assert set(ALLOWED) == set(CALLS)
    assert all(ALLOWED.values())


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_is_kept_to_its_part(role: Role, ca: pki.Authority, decoder: DecoderServer) -> None:
    mine = load_certificates(ca.node(role, "left"))
    assert await check_health(address(decoder), certificates=mine) == "SERVING"
    async with open_channel(address(decoder), mine) as channel:
        for call in DECODER_CALLS:
            code = await outcome(channel, call, "rig", "left")
            if role in ALLOWED[call]:
                assert code not in REFUSED, call
            else:
                assert code is grpc.StatusCode.PERMISSION_DENIED, call


@pytest.mark.parametrize(
    ("role", "call", "rig", "name"),
    [
        ("camera", "FrameStreamService.StreamFrames", "rig", "right"),
        ("camera", "FrameStreamService.StreamFrames", "other", "left"),
        ("camera", "FrameStreamService.StreamFrames", "", ""),
        ("side-information", "SideInformationService.StreamSideInformation", "rig", "right"),
        ("side-information", "SideInformationService.StreamSideInformation", "other", "left"),
        ("client", "DecodeService.Decode", "other", ""),
        ("client", "DecodeService.Subscribe", "other", ""),
        ("client", "CatalogService.ListStreams", "other", ""),
    ],
)
async def test_each_peer_is_kept_to_its_own(
    role: Role, call: str, rig: str, name: str, ca: pki.Authority, decoder: DecoderServer
) -> None:
    async with open_channel(address(decoder), load_certificates(ca.node(role, "left"))) as channel:
        assert await outcome(channel, call, rig, name) is grpc.StatusCode.PERMISSION_DENIED
        assert await outcome(channel, call, "rig", "left") not in REFUSED


@pytest.mark.parametrize("call", DECODER_CALLS)
async def test_a_stranger_may_nothing(call: str, ca: pki.Authority, decoder: DecoderServer) -> None:
    trusting = load_certificates(CertificateFiles(ca.certificate))
    async with open_channel(clients_address(decoder), trusting) as channel:
        assert await outcome(channel, call, "rig", "left") is grpc.StatusCode.UNAUTHENTICATED
    async with open_channel(address(decoder), trusting) as channel:
        assert await outcome(channel, call, "rig", "left") is grpc.StatusCode.UNAVAILABLE


async def test_a_token_is_good_for_what_a_client_may(
    ca: pki.Authority, keys: Path, decoder: DecoderServer, compressed: CompressedFrame
) -> None:
    trusting = load_certificates(CertificateFiles(ca.certificate))
    token = issue_token(keys / PRIVATE, rig="rig", name="alice", valid_s=60)
    async with open_channel(clients_address(decoder), trusting, token) as channel:
        for call in DECODER_CALLS:
            code = await outcome(channel, call, "rig", "alice")
            assert (code in REFUSED) == ("client" not in ALLOWED[call]), call
        request = decode_pb2.DecodeRequest(frame=compressed_message(compressed))
        assert (await DecodeServiceStub(channel).Decode(request, timeout=TIMEOUT_S)).image.width == 40
        request.side_reference.rig = "other"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await DecodeServiceStub(channel).Decode(request, timeout=TIMEOUT_S)
        assert describe(refused.value)[:2] == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_a_client_sees_the_streams_of_its_rig_alone(
    ca: pki.Authority, decoder: DecoderServer, compressed: CompressedFrame
) -> None:
    def certificates(role: Role, rig: str) -> Certificates:
        return load_certificates(ca.node(role, "left", rig=rig))

    async with AsyncExitStack() as stack:
        for rig in ("rig", "other"):
            channel = await stack.enter_async_context(
                open_channel(address(decoder), certificates("camera", rig))
            )
            call: Any = FrameStreamServiceStub(channel).StreamFrames(timeout=TIMEOUT_S)
            await call.write(frame_stream_pb2.StreamFramesRequest(open=camera_open(compressed, rig=rig)))
            assert (await call.read()).HasField("opened")
        for rig in ("rig", "other"):
            async with open_channel(address(decoder), certificates("client", rig)) as channel:
                answer = await CatalogServiceStub(channel).ListStreams(
                    catalog_pb2.ListStreamsRequest(), timeout=TIMEOUT_S
                )
                assert [stream.rig for stream in answer.streams] == [rig]


async def test_a_session_ends_with_its_certificate(
    ca: pki.Authority, decoder: DecoderServer, compressed: CompressedFrame
) -> None:
    short = load_certificates(ca.node("camera", "left", valid=timedelta(seconds=2)))
    channel = open_channel(address(decoder), short)
    stub = FrameStreamServiceStub(channel)
    async with CameraNode(channel, stub.StreamFrames(timeout=TIMEOUT_S)) as node:
        assert (await node.open(camera_open(compressed))).HasField("opened")
        assert time.time() < short.expires_s
        with capture_logs() as logs:
            assert await node.refusal() == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert short.expires_s <= time.time() < short.expires_s + 5
    said = [log["message"] for log in logs if log["event"] == "call refused"]
    assert said == ["the caller's certificate or token has expired: issue a new one"]
