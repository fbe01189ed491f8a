"""Many cameras at one decoder: frames share runs of the network, and a held decoder holds nothing else up."""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from decoder_service import batching, sessions
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.codec import FrameDecoder, FrameEncoder, Indices
from ndsc.codec.frames import Frame
from ndsc.service.channel import open_channel
from ndsc.service.images import from_image, to_image
from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodeRequest
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from ndsc.v1.frame_stream_pb2 import StreamFramesRequest
from ndsc.v1.side_information_pb2 import StreamSideInformationRequest
from ndsc.v1.types_pb2 import Heartbeat
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    RAW,
    CameraNode,
    SideNode,
    acks,
    camera_open,
    compressed_message,
    counts,
    frame_message,
    picture_of,
    refusal,
    side_open,
    streams,
    subscribed,
    until,
)

CAMERAS = ("a", "b", "c", "d")


@asynccontextmanager
async def cameras(address: str, frame: CompressedFrame) -> AsyncIterator[list[CameraNode]]:
    """An open call for each of CAMERAS."""
    async with AsyncExitStack() as stack:
        nodes = []
        for camera in CAMERAS:
            node = await stack.enter_async_context(CameraNode.connect(address))
            await node.resume(camera_open(frame, camera=camera))
            nodes.append(node)
        yield nodes


async def test_frames_of_several_cameras_share_a_run(
    start_decoder: StartDecoder,
    tiny_encoder: FrameEncoder,
    tiny_decoder: FrameDecoder,
    picture: Frame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, sizes, decode = threading.Event(), [], batching._decode

    def held(
        decoder: FrameDecoder, indices: list[Indices], side: list[Frame | None]
    ) -> Sequence[Frame | Exception]:
        go_on.wait()
        sizes.append(len(indices))
        return decode(decoder, indices, side)

    monkeypatch.setattr(batching, "_decode", held)
    frames = {name: tiny_encoder.encode(np.roll(picture, n, axis=1)) for n, name in enumerate(CAMERAS)}
    address = address_of(await start_decoder(max_batch=3))
    try:
        async with subscribed(address, format=RAW) as pictures, cameras(address, frames["a"]) as nodes:
            for name, node in zip(CAMERAS, nodes, strict=True):
                await node.send_together(frame_message(1, frames[name]), frame_message(2, frames[name]))
            await until(address, lambda streams: all(streams[name].received == 2 for name in CAMERAS))
            go_on.set()
            got = [await picture_of(pictures) for _ in range(2 * len(CAMERAS))]
    finally:
        go_on.set()
    assert sum(sizes) == len(got)
    assert max(sizes) == 3, "the three that waited behind the first"
    for name in CAMERAS:
        mine = [frame for frame in got if frame.camera == name]
        assert [frame.sequence for frame in mine] == [1, 2]
        for frame in mine:
            image = from_image(frame.image, max_pixels=10_000)
            np.testing.assert_array_equal(image, tiny_decoder.decode(frames[name]))


async def test_a_held_decoder_holds_up_neither_health_nor_admission(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    side_picture: Frame,
    held_decoder: threading.Event,
) -> None:
    address = address_of(await start_decoder(max_sessions=len(CAMERAS), max_decodes=1))
    loop = asyncio.get_running_loop()
    async with cameras(address, compressed) as nodes, open_channel(address) as channel:
        for node in nodes:
            await node.send_together(*(frame_message(0, compressed) for _ in range(4)))
        await until(address, lambda streams: all(streams[name].received == 4 for name in CAMERAS))
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        await check(health_pb2.HealthCheckRequest(), timeout=10)  # connected from here on
        latencies_s = []
        for _ in range(9):
            began = loop.time()
            answer = await check(health_pb2.HealthCheckRequest(), timeout=10)
            latencies_s.append(loop.time() - began)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert statistics.median(latencies_s) < 0.1
        async with CameraNode.connect(address) as fifth, SideNode.connect(address) as side:
            await fifth.write(StreamFramesRequest(open=camera_open(compressed, camera="fifth")))
            assert await fifth.refusal() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SESSION_LIMIT")
            await side.open(side_open(side_picture))
            assert (await side.send(1, side_picture, 1)).ack.up_to_sequence == 1
        decode = DecodeServiceStub(channel).Decode
        request = DecodeRequest(frame=compressed_message(compressed))
        under_way = asyncio.ensure_future(decode(request, timeout=20))
        refused = await refusal(decode(request, timeout=20))
        assert refused[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        account = counts((await streams(address))["a"])
        assert account == {"received": 4, "waiting": 4}
        assert not under_way.done()
        held_decoder.set()
        await under_way
        for node in nodes:
            assert acks(await node.finish()) == [1, 2, 3, 4]


async def test_one_slow_camera_holds_up_no_other(
    start_decoder: StartDecoder, compressed: CompressedFrame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=60_000))
    async with CameraNode.connect(address) as waiting, CameraNode.connect(address) as node:
        await waiting.resume(camera_open(compressed, camera="waiting", side_information_streams=["nobody"]))
        await waiting.send_together(*(frame_message(0, compressed) for _ in range(4)))
        await until(address, lambda streams: streams["waiting"].received == 4)
        await node.resume(camera_open(compressed))
        for sequence in range(1, 10):
            await node.send(sequence, compressed)
            assert await node.ack() == sequence
        assert counts((await streams(address))["waiting"]) == {"received": 4, "waiting": 4}


async def test_larger_frames_than_the_settings_allow(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    pixels = compressed.width * compressed.height
    refused = (grpc.StatusCode.INVALID_ARGUMENT, "GEOMETRY_UNSUPPORTED")
    for max_pixels, fits in ((pixels, True), (pixels - 1, False)):
        address = address_of(await start_decoder(max_pixels=max_pixels))
        async with (
            open_channel(address) as channel,
            CameraNode.connect(address) as node,
            SideNode.connect(address) as side,
        ):
            request = DecodeRequest(
                frame=compressed_message(compressed),
                side_image=to_image(side_picture, types_pb2.IMAGE_FORMAT_RAW_RGB8),
            )
            decode = DecodeServiceStub(channel).Decode(request, timeout=10)
            await node.write(StreamFramesRequest(open=camera_open(compressed)))
            await side.write(StreamSideInformationRequest(open=side_open(side_picture)))
            if fits:
                await decode
                assert (await node.read()).WhichOneof("message") == "opened"
                assert (await side.read()).WhichOneof("message") == "opened"
            else:
                assert (await refusal(decode))[:2] == refused
                assert await node.refusal() == refused
                assert await side.refusal() == refused


async def test_a_heartbeat_takes_no_credit(start_decoder: StartDecoder, compressed: CompressedFrame) -> None:
    address = address_of(await start_decoder(credit_frames=1))
    async with CameraNode.connect(address) as node:
        await node.resume(camera_open(compressed))
        for _ in range(5):
            await node.write(StreamFramesRequest(heartbeat=Heartbeat()))
        await node.send(1, compressed)
        assert acks(await node.finish()) == [1]


async def test_credit_falls_while_frames_wait_long_and_comes_back(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    held_decoder: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=0))
    async with CameraNode.connect(address) as node:
        assert (await node.resume(camera_open(compressed))).credit.max_frames == 4
        for sequence in (1, 2, 3, 4):
            await node.send(sequence, compressed)
        await until(address, lambda streams: streams["left"].received == 4)
        # No frame is younger than this when its turn comes; the test need not wait for the real threshold.
        monkeypatch.setattr(sessions, "_STALE_S", 0.0)
        held_decoder.set()
        assert [(await node.read()).ack.credit.max_frames for _ in range(4)] == [3, 2, 1, 1]
        monkeypatch.setattr(sessions, "_STALE_S", 1000.0)
        for sequence in (5, 6, 7, 8):
            await node.send(sequence, compressed)
            assert (await node.read()).ack.credit.max_frames == min(4, sequence - 3)
