"""Subscribe: decoded frames to clients, who may be slow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from decoder_service.metrics import DecoderMetrics
from decoder_service.outputs import Hub, Picture
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.frames import Frame, write_image
from ndsc.service.channel import open_channel
from ndsc.service.errors import describe
from ndsc.service.images import from_image, to_image
from ndsc.service.timestamps import from_timestamp, to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import HeldSideInformation, SubscribeRequest, SubscribeResponse
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from ndsc.v1.frame_stream_pb2 import StreamFramesResponse
from ndsc.v1.side_information_pb2 import SideInformationFrame, StreamSideInformationRequest
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    EPOCH_US,
    RAW,
    CameraNode,
    SideNode,
    camera_open,
    compressed_message,
    picture_of,
    side_open,
    subscribed,
)


async def test_a_picture_says_all_about_itself(
    decoder_address: str, compressed: CompressedFrame, tiny_decoder: FrameDecoder
) -> None:
    request = camera_open(compressed)
    async with (
        subscribed(decoder_address, include_compressed=True) as call,
        CameraNode.connect(decoder_address) as node,
    ):
        await node.open(request)
        await node.send(3, compressed)
        frame = await picture_of(call)
    assert (frame.rig, frame.camera, frame.sequence) == ("rig", "left", 3)
    assert frame.session_id == request.session_id
    assert from_timestamp(frame.capture_time) == EPOCH_US + 300_000
    assert frame.image.format == types_pb2.IMAGE_FORMAT_PNG
    np.testing.assert_array_equal(from_image(frame.image, max_pixels=10_000), tiny_decoder.decode(compressed))
    assert frame.side_information.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_NOT_REQUESTED
    assert frame.rate_level == compressed.rate_level
    assert frame.payload_bytes == len(compressed.payload)
    # At most 16 bytes around the payload.
    assert frame.payload_bytes < frame.frame_bytes <= frame.payload_bytes + 16
    assert frame.decode_us > 0
    assert frame.compressed == compressed_message(compressed)
    assert frame.bundle_id.hex() == tiny_decoder.bundle.bundle_id


async def test_cameras_are_chosen(decoder_address: str, compressed: CompressedFrame) -> None:
    async with (
        subscribed(decoder_address, cameras=["b"], format=RAW) as chosen,
        subscribed(decoder_address, format=RAW) as everything,
        subscribed(decoder_address, rig="other", format=RAW) as other,
        CameraNode.connect(decoder_address) as a,
        CameraNode.connect(decoder_address) as b,
    ):
        await a.open(camera_open(compressed, camera="a"))
        await b.open(camera_open(compressed, camera="b"))
        await a.send(1, compressed)
        await a.finish()
        await b.send(1, compressed)
        await b.finish()
        frame = await picture_of(chosen)
        assert (frame.camera, frame.HasField("compressed"), frame.image.format) == ("b", False, RAW)
        assert [(await picture_of(everything)).camera for _ in range(2)] == ["a", "b"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.read(), 0.05)


async def test_subscribers_are_in_order_and_start_from_now(
    decoder_address: str, tiny_encoder: FrameEncoder, picture: Frame, tiny_decoder: FrameDecoder
) -> None:
    frames = [tiny_encoder.encode(np.roll(picture, shift, axis=1)) for shift in range(4)]
    async with CameraNode.connect(decoder_address) as node:
        await node.open(camera_open(frames[0]))
        await node.send(1, frames[0])
        await node.read()
        async with subscribed(decoder_address, format=RAW) as call:
            for sequence in (2, 3, 4):
                await node.send(sequence, frames[sequence - 1])
            for sequence in (2, 3, 4):
                got = await picture_of(call)
                assert got.sequence == sequence
                np.testing.assert_array_equal(
                    from_image(got.image, max_pixels=10_000), tiny_decoder.decode(frames[sequence - 1])
                )


async def acknowledged(node: CameraNode, sequence: int) -> None:
    while True:
        answer: StreamFramesResponse = await node.read()
        assert answer.WhichOneof("message") == "ack"
        if answer.ack.up_to_sequence == sequence:
            return


async def test_a_slow_subscriber_misses_and_blocks_nobody(
    start_decoder: StartDecoder, tiny_encoder: FrameEncoder
) -> None:
    address = address_of(await start_decoder(subscriber_queue_frames=2))
    # Raw pictures of 1.5 MB fill the window of a call that is not read, so that the server sees it is slow.
    large = tiny_encoder.encode(np.zeros((512, 1024, 3), np.uint8), 0)
    count = 14
    async with (
        subscribed(address, format=RAW) as slow,
        subscribed(address, format=types_pb2.IMAGE_FORMAT_JPEG) as quick,
        CameraNode.connect(address) as node,
    ):
        await node.open(camera_open(large))
        for sequence in range(1, count + 1):
            await node.send(sequence, large)
            await acknowledged(node, sequence)
            assert (await picture_of(quick)).sequence == sequence
        await node.finish()
        seen, missed, last = 0, 0, 0
        while last < count:
            answer: SubscribeResponse = await asyncio.wait_for(slow.read(), 10)
            if answer.WhichOneof("message") == "missed":
                missed += answer.missed.frames
            else:
                assert answer.frame.sequence == last + 1 + (missed - (last - seen))
                seen, last = seen + 1, answer.frame.sequence
    assert missed > 0
    assert seen + missed == count


def _picture(camera: str, sequence: int) -> Picture:
    image = np.zeros((1, 1, 3), np.uint8)
    frame = CompressedFrame(bytes(16), 0, 1, 1, b"")
    use = types_pb2.SideInformationUse()
    return Picture("rig", camera, bytes(16), sequence, 0, image, use, frame, 0, 0, bytes(32))


async def test_side_information_comes_as_it_was_received_and_before_what_it_serves(
    decoder_address: str, compressed: CompressedFrame, side_picture: Frame
) -> None:
    image = to_image(side_picture, types_pb2.IMAGE_FORMAT_JPEG)
    at = to_timestamp(EPOCH_US + 110_000)
    async with (
        subscribed(decoder_address, include_side_information=True, cameras=["left"]) as call,
        subscribed(decoder_address, format=RAW) as without,
        subscribed(decoder_address, rig="other", include_side_information=True) as other,
        SideNode.connect(decoder_address) as side,
        CameraNode.connect(decoder_address) as node,
    ):
        await side.open(side_open(side_picture))
        frame = SideInformationFrame(sequence=1, capture_time=at, image=image)
        await side.write(StreamSideInformationRequest(frame=frame))
        await side.read()
        await node.open(camera_open(compressed, side_information_streams=["right"]))
        await node.send(1, compressed)
        held: SubscribeResponse = await asyncio.wait_for(call.read(), 10)
        assert held.side_information == HeldSideInformation(
            rig="rig", stream="right", capture_time=at, image=image
        )
        use = (await picture_of(call)).side_information
        assert (use.stream, use.capture_time) == ("right", at)
        await picture_of(without)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.read(), 0.05)


async def test_an_attached_source_comes_as_png(
    start_decoder: StartDecoder, tmp_path: Path, side_picture: Frame
) -> None:
    write_image(tmp_path / "0.png", side_picture)
    decoder = await start_decoder(warm=False, attach=(f"rig/right={tmp_path}",))
    async with subscribed(address_of(decoder), include_side_information=True) as call:
        await decoder.warm_up()
        held: SubscribeResponse = await asyncio.wait_for(call.read(), 10)
    image = held.side_information.image
    assert image.format == types_pb2.IMAGE_FORMAT_PNG
    np.testing.assert_array_equal(from_image(image, max_pixels=10_000), side_picture)


async def test_the_newest_are_kept_and_the_missed_are_counted() -> None:
    hub = Hub(capacity_frames=2, max_subscribers=1, metrics=DecoderMetrics(max_streams=1))
    subscription = hub.subscribe("rig", frozenset({"left"}))
    for sequence in range(1, 6):
        hub.publish(_picture("left", sequence))
        hub.publish(_picture("other", sequence))
    got = [await subscription.next(), await subscription.next()]
    told = [(missed, picture.sequence) for missed, picture in got if isinstance(picture, Picture)]
    assert told == [(3, 4), (0, 5)]


async def test_bad_subscriptions(start_decoder: StartDecoder) -> None:
    address = address_of(await start_decoder(max_sessions=1))
    for request, reason in (
        (SubscribeRequest(), "FIELD_INVALID"),
        (SubscribeRequest(rig="../x"), "FIELD_INVALID"),
        (SubscribeRequest(rig="rig", cameras=[""]), "FIELD_INVALID"),
    ):
        async with open_channel(address) as channel:
            call: Any = DecodeServiceStub(channel).Subscribe(request)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert describe(refused.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    async with subscribed(address), open_channel(address) as channel:
        call = DecodeServiceStub(channel).Subscribe(SubscribeRequest(rig="rig"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert describe(refused.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SESSION_LIMIT")
