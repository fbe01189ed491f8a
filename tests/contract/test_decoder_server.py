"""The server as a whole: health, reflection, listing, and a clean end."""

from __future__ import annotations

import asyncio
import statistics
import threading
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from structlog.testing import capture_logs

from decoder_service.server import SERVICE_NAMES
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import BundleError, NdscError
from ndsc.codec.frames import Frame
from ndsc.service.channel import KEEPALIVE_TIME_MS, MIN_PING_INTERVAL_MS, open_channel
from ndsc.service.errors import ListenError, UnreachableError, describe
from ndsc.service.health import check_health
from ndsc.service.server import run_until_signal
from ndsc.v1.catalog_pb2 import ListBundlesRequest, ListStreamsRequest
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.v1.decode_pb2 import DecodeRequest, SubscribeRequest
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from ndsc.v1.frame_stream_pb2 import StreamFramesRequest
from ndsc.v1.types_pb2 import Heartbeat
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    EPOCH_US,
    CameraNode,
    SideNode,
    camera_open,
    compressed_message,
    refusal,
    side_open,
    streams,
)


async def test_serving_only_after_the_warm_up(start_decoder: StartDecoder) -> None:
    decoder = await start_decoder(warm=False)
    address = address_of(decoder)
    for name in ("", *SERVICE_NAMES):
        assert await check_health(address, name) == "NOT_SERVING"
    await decoder.warm_up()
    for name in ("", *SERVICE_NAMES):
        assert await check_health(address, name) == "SERVING"
    assert await check_health(address, "ndsc.v1.NoSuchService") == "SERVICE_UNKNOWN"


async def test_health_answers_while_decoding_is_slow(
    start_decoder: StartDecoder, compressed: CompressedFrame, held_decoder: threading.Event
) -> None:
    address = address_of(await start_decoder())
    async with open_channel(address) as channel, CameraNode.connect(address) as node:
        await node.open(camera_open(compressed))
        for sequence in (1, 2, 3, 4):
            await node.send(sequence, compressed)
        decode = asyncio.ensure_future(
            DecodeServiceStub(channel).Decode(DecodeRequest(frame=compressed_message(compressed)), timeout=10)
        )
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        await check(health_pb2.HealthCheckRequest(), timeout=10)  # connected from here on
        loop = asyncio.get_running_loop()
        latencies_s = []
        for _ in range(9):
            began = loop.time()
            await check(health_pb2.HealthCheckRequest(), timeout=10)
            latencies_s.append(loop.time() - began)
        assert statistics.median(latencies_s) < 0.1
        assert not decode.done()
        held_decoder.set()
        await decode


async def test_nothing_at_the_address() -> None:
    with pytest.raises(UnreachableError, match=r"no service answers at 127\.0\.0\.1:1: start it with"):
        await check_health("127.0.0.1:1", timeout_s=2)


async def reflected(address: str) -> list[str]:
    async with open_channel(address) as channel:
        call: Any = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
        answer = await call.read()
        return [service.name for service in answer.list_services_response.service]


async def test_reflection_lists_the_services(start_decoder: StartDecoder) -> None:
    names = await reflected(address_of(await start_decoder()))
    assert {*SERVICE_NAMES, "grpc.health.v1.Health"} <= set(names)
    with pytest.raises(grpc.aio.AioRpcError) as off:
        await reflected(address_of(await start_decoder(reflection=False)))
    assert off.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_listing(
    decoder_address: str, tiny_bundle: Bundle, compressed: CompressedFrame, side_picture: Frame
) -> None:
    async with open_channel(decoder_address) as channel:
        catalog = CatalogServiceStub(channel)
        (bundle,) = (await catalog.ListBundles(ListBundlesRequest(), timeout=10)).bundles
        assert (bundle.name, bundle.provider, bundle.rate_levels) == ("tiny", "cpu", 3)
        assert bundle.bundle_id.hex() == tiny_bundle.bundle_id
        assert bundle.bitstream_id == tiny_bundle.bitstream_id
        assert (bundle.max_side, bundle.max_pixels) == (2048, 1 << 20)
        assert not (await catalog.ListStreams(ListStreamsRequest(), timeout=10)).streams
        async with CameraNode.connect(decoder_address) as node, SideNode.connect(decoder_address) as side:
            await node.open(camera_open(compressed))
            await side.open(side_open(side_picture))
            await side.send(1, side_picture, EPOCH_US)
            listed = await streams(decoder_address)
            assert {name: stream.open for name, stream in listed.items()} == {"left": True, "right": True}
            geometry = listed["right"].geometry
            assert (geometry.width, geometry.height, listed["right"].decoded) == (40, 24, 1)
            assert not listed["left"].HasField("last_capture_time")
        elsewhere = await catalog.ListStreams(ListStreamsRequest(rig="elsewhere"), timeout=10)
        assert not elsewhere.streams
        bad = await refusal(catalog.ListStreams(ListStreamsRequest(rig="/"), timeout=10))
        assert bad[1] == "FIELD_INVALID"


async def test_a_busy_port(start_decoder: StartDecoder) -> None:
    address = address_of(await start_decoder())
    with pytest.raises(ListenError, match=r"cannot listen at 127\.0\.0\.1:\d+: the port is taken"):
        await start_decoder(listen=address)


async def test_plaintext_beyond_loopback_is_warned_of(start_decoder: StartDecoder) -> None:
    port = (await start_decoder()).server.port
    listen = f"0.0.0.0:{port}"  # taken, so that no other machine is ever served
    with capture_logs() as logs, pytest.raises(ListenError):
        await start_decoder(listen=listen, allow_plaintext_beyond_loopback=True)
    assert [(log["log_level"], log["listen"]) for log in logs] == [("warning", listen)]


async def test_one_bundle_twice(start_decoder: StartDecoder, tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="decode the same bitstream"):
        await start_decoder(bundle=(tiny_bundle.path, tiny_bundle.path))


async def test_a_missing_bundle(start_decoder: StartDecoder) -> None:
    with pytest.raises(NdscError, match="nowhere"):
        await start_decoder(bundle=("nowhere",))


async def test_drain_finishes_what_has_begun(
    start_decoder: StartDecoder, compressed: CompressedFrame, held_decoder: threading.Event
) -> None:
    decoder = await start_decoder()
    address = address_of(decoder)
    stop = asyncio.Event()
    async with CameraNode.connect(address) as node, open_channel(address) as channel:
        subscription: Any = DecodeServiceStub(channel).Subscribe(SubscribeRequest(rig="rig"))
        await subscription.read()
        await node.open(camera_open(compressed))
        await node.send(1, compressed)
        await node.send(2, compressed)
        running = asyncio.create_task(
            run_until_signal(decoder.server, drain_s=10, on_drain=decoder.drain, stop=stop)
        )
        stop.set()
        drain = await node.read()
        assert drain.drain.retry_after_ms > 0
        for name in ("", *SERVICE_NAMES):
            assert await check_health(address, name) == "NOT_SERVING"
        late = DecodeServiceStub(channel).Decode(DecodeRequest(frame=compressed_message(compressed)))
        code, reason, _ = await refusal(late)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        held_decoder.set()
        answers = await node.finish()
        assert [answer.ack.up_to_sequence for answer in answers] == [1, 2]
        assert [(await subscription.read()).frame.sequence for _ in range(2)] == [1, 2]
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await subscription.read()
        assert describe(ended.value)[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await asyncio.wait_for(running, 5)


async def test_a_drain_has_an_end(start_decoder: StartDecoder, compressed: CompressedFrame) -> None:
    decoder = await start_decoder()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with CameraNode.connect(address_of(decoder)) as node:
        await node.open(camera_open(compressed))
        running = asyncio.create_task(
            run_until_signal(decoder.server, drain_s=1, on_drain=decoder.drain, stop=stop)
        )
        began = loop.time()
        stop.set()
        assert (await node.read()).WhichOneof("message") == "drain"
        await node.write(StreamFramesRequest(heartbeat=Heartbeat()))  # this node never closes
        assert await node.refusal() == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await running
        assert loop.time() - began < 2


async def test_streams_opened_while_draining_are_refused(
    start_decoder: StartDecoder, compressed: CompressedFrame
) -> None:
    decoder = await start_decoder()
    async with CameraNode.connect(address_of(decoder)) as node:
        await node.open(camera_open(compressed))
        draining = asyncio.create_task(decoder.drain())
        assert (await node.read()).WhichOneof("message") == "drain"
        async with CameraNode.connect(address_of(decoder)) as late:
            assert await late.refusal() == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await node.finish()
        await draining


def test_keepalive_of_both_ends_fits() -> None:
    assert MIN_PING_INTERVAL_MS < KEEPALIVE_TIME_MS


async def test_held_side_information_is_bounded(
    start_decoder: StartDecoder,
) -> None:
    decoder = await start_decoder(side_information_capacity_frames=3)
    image = np.zeros((8, 8, 3), np.uint8)
    async with SideNode.connect(address_of(decoder)) as side:
        await side.open(side_open(image))
        for sequence in range(1, 11):
            await side.send(sequence, image, EPOCH_US + sequence)
        assert (await streams(address_of(decoder)))["right"].decoded == 10
    assert decoder.store.held_frames("rig", "right") == 3
