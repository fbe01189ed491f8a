"""A camera session over several calls: where it goes on, what is told twice, and what a broken call leaves."""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.frames import Frame
from ndsc.service.images import from_image
from ndsc.service.timestamps import from_timestamp
from ndsc.v1.frame_stream_pb2 import FrameBatch, StreamFramesRequest
from ndsc.v1.types_pb2 import Geometry
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    ARCHIVE,
    EPOCH_US,
    RAW,
    CameraNode,
    acks,
    camera_open,
    counts,
    errors,
    events,
    frame_message,
    picture_of,
    streams,
    subscribed,
    until,
)

SUPERSEDED = (grpc.StatusCode.ABORTED, "SESSION_SUPERSEDED")


async def test_a_session_goes_on_where_it_was(decoder_address: str, compressed: CompressedFrame) -> None:
    request = camera_open(compressed)
    async with CameraNode.connect(decoder_address) as first:
        opened = await first.resume(request)
        assert (opened.next_sequence, opened.resumed) == (1, False)
        for sequence in (1, 2):
            await first.send(sequence, compressed)
            assert await first.ack() == sequence
    async with CameraNode.connect(decoder_address) as second:
        request.next_sequence = 2  # the ack of 2 was lost on its way
        opened = await second.resume(request)
        assert (opened.next_sequence, opened.resumed) == (3, True)
        await second.send(0, compressed)  # the one after what `opened` says
        assert acks(await second.finish()) == [3]
    stream = (await streams(decoder_address))["left"]
    assert stream.session_id == request.session_id
    assert counts(stream) == {"received": 3, "decoded": 3}


async def test_another_session_begins_anew(decoder_address: str, compressed: CompressedFrame) -> None:
    for _ in range(2):
        async with CameraNode.connect(decoder_address) as node:
            opened = await node.resume(camera_open(compressed))
            assert (opened.next_sequence, opened.resumed) == (1, False)
            await node.send(1, compressed)
            assert acks(await node.finish()) == [1]
    assert counts((await streams(decoder_address))["left"]) == {"received": 1, "decoded": 1}


async def test_a_session_is_one_cameras(decoder_address: str, compressed: CompressedFrame) -> None:
    session_id = secrets.token_bytes(16)
    async with CameraNode.connect(decoder_address) as node:
        await node.resume(camera_open(compressed, session_id=session_id))
        await node.send(1, compressed)
        await node.ack()
        for other in ({"camera": "other"}, {"rig": "other"}):
            async with CameraNode.connect(decoder_address) as stranger:
                opened = await stranger.resume(camera_open(compressed, session_id=session_id, **other))
                assert (opened.next_sequence, opened.resumed) == (1, False)


async def test_a_node_may_pass_over_what_it_gave_up(
    decoder_address: str, compressed: CompressedFrame
) -> None:
    request = camera_open(compressed, next_sequence=10)
    async with CameraNode.connect(decoder_address) as node:
        opened = await node.resume(request)
        assert (opened.next_sequence, opened.resumed) == (10, False)
        await node.send(0, compressed)
        assert await node.ack() == 10
    for claimed, answered in ((5, 11), (0, 11), (20, 20), (11, 20)):
        async with CameraNode.connect(decoder_address) as node:
            request.next_sequence = claimed
            opened = await node.resume(request)
            assert (opened.next_sequence, opened.resumed) == (answered, True)
    async with CameraNode.connect(decoder_address) as node:
        await node.resume(request)
        await node.send(19, compressed)
        assert (await node.refusal())[1] == "SEQUENCE_NOT_INCREASING"


async def test_a_new_call_takes_over_from_a_half_open_one(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    held_decoder: threading.Event,
    tmp_path: Path,
) -> None:
    history = tmp_path / "history"
    address = address_of(await start_decoder(history=history))
    request = camera_open(compressed)
    async with (
        subscribed(address, format=RAW) as pictures,
        CameraNode.connect(address) as old,
        CameraNode.connect(address) as new,
    ):
        await old.resume(request)
        await old.send(1, compressed)
        await old.send(2, compressed, dropped_before=3)
        await until(address, lambda streams: streams["left"].received == 2)
        assert counts((await streams(address))["left"]) == {"received": 2, "waiting": 2}
        opened = await new.resume(request)
        assert (opened.next_sequence, opened.resumed) == (1, True)
        assert await old.refusal() == SUPERSEDED
        assert counts((await streams(address))["left"]) == {"received": 2, "abandoned": 2}
        await new.send(1, compressed)
        await new.send(2, compressed, dropped_before=3)
        await until(address, lambda streams: streams["left"].received == 4)
        assert counts((await streams(address))["left"]) == {"received": 4, "abandoned": 2, "waiting": 2}
        held_decoder.set()
        await new.send(3, compressed)
        assert acks(await new.finish()) == [1, 2, 3]
        assert [(await picture_of(pictures)).sequence for _ in range(3)] == [1, 2, 3]
    account = counts((await streams(address))["left"])
    assert account == {"received": 5, "abandoned": 2, "decoded": 3, "dropped": 3}
    assert [event["sequence"] for event in events(history, "decoded")] == [1, 2, 3]
    assert [event["sequence"] for event in events(history, "abandoned")] == [1, 2]


async def test_another_session_leaves_nothing_of_the_old_one(
    start_decoder: StartDecoder, compressed: CompressedFrame, held_decoder: threading.Event
) -> None:
    address = address_of(await start_decoder())
    async with (
        subscribed(address, format=RAW) as pictures,
        CameraNode.connect(address) as old,
        CameraNode.connect(address) as new,
    ):
        await old.resume(camera_open(compressed))
        await old.send(1, compressed)
        await until(address, lambda streams: streams["left"].received == 1)
        request = camera_open(compressed)
        await new.resume(request)
        assert await old.refusal() == SUPERSEDED
        held_decoder.set()
        await new.send(1, compressed)
        assert acks(await new.finish()) == [1]
        assert (await picture_of(pictures)).session_id == request.session_id
    assert counts((await streams(address))["left"]) == {"received": 1, "decoded": 1}


async def test_what_is_given_up_is_counted_with_the_frame(
    decoder_address: str, compressed: CompressedFrame
) -> None:
    async with CameraNode.connect(decoder_address) as node:
        await node.resume(camera_open(compressed))
        await node.send(1, compressed, dropped_before=2)
        await node.send(2, replace(compressed, payload=b""), dropped_before=4)
        await node.finish()
    account = counts((await streams(decoder_address))["left"])
    assert account == {"received": 2, "decoded": 1, "failed": 1, "dropped": 6}


@pytest.mark.parametrize(
    "change",
    [{"geometry": Geometry(width=48, height=24)}, {"delivery": ARCHIVE}],
    ids=["geometry", "delivery"],
)
async def test_a_session_keeps_what_it_is(
    start_decoder: StartDecoder, compressed: CompressedFrame, tmp_path: Path, change: dict[str, Any]
) -> None:
    address = address_of(await start_decoder(archive=tmp_path / "archive"))
    request = camera_open(compressed)
    async with CameraNode.connect(address) as node:
        await node.resume(request)
        async with CameraNode.connect(address) as other:
            changed = camera_open(compressed, session_id=request.session_id, **change)
            await other.write(StreamFramesRequest(open=changed))
            assert await other.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
        await node.send(1, compressed)  # undisturbed
        assert acks(await node.finish()) == [1]


async def test_a_session_may_change_its_bitstream(
    start_decoder: StartDecoder,
    tiny_bundle: Bundle,
    other_bundle: Bundle,
    compressed: CompressedFrame,
    picture: Frame,
    tiny_decoder: FrameDecoder,
) -> None:
    address = address_of(await start_decoder(bundle=(other_bundle.path, tiny_bundle.path)))
    changed = FrameEncoder(other_bundle).encode(picture)
    assert changed.payload != compressed.payload
    request = camera_open(compressed)
    async with subscribed(address, format=RAW) as pictures:
        async with CameraNode.connect(address) as node:
            opened = await node.resume(request)
            assert opened.preferred_bitstream_id == other_bundle.bitstream_id
            await node.send(1, compressed)
            assert acks(await node.finish()) == [1]
        async with CameraNode.connect(address) as node:
            request.bitstream_id = other_bundle.bitstream_id
            opened = await node.resume(request)
            assert (opened.next_sequence, opened.resumed) == (2, True)
            await node.send(2, changed)
            assert acks(await node.finish()) == [2]
        for bundle in (tiny_bundle, other_bundle):
            got = await picture_of(pictures)
            assert got.bundle_id.hex() == bundle.bundle_id
            image = from_image(got.image, max_pixels=10_000)
            np.testing.assert_array_equal(image, tiny_decoder.decode(compressed))


async def test_frames_in_one_message(decoder_address: str, compressed: CompressedFrame) -> None:
    damaged = replace(compressed, payload=compressed.payload[:-4])
    async with subscribed(decoder_address, format=RAW) as pictures:
        async with CameraNode.connect(decoder_address) as node:
            await node.resume(camera_open(compressed))
            await node.send_together(
                frame_message(0, compressed),
                frame_message(5, damaged),
                frame_message(0, compressed, delta_us=-150_000),
            )
            await node.send_together(frame_message(0, compressed, delta_us=1))
            answers = await node.finish()
        got = [await picture_of(pictures) for _ in range(3)]
    assert acks(answers) == [1, 5, 6, 7]
    assert [sequence for sequence, _ in errors(answers)] == [5]
    assert [frame.sequence for frame in got] == [1, 6, 7]
    times_us = [from_timestamp(frame.capture_time) - EPOCH_US for frame in got]
    assert times_us == [100_000, 50_000, 50_001], "counted from the frame before, a bad one included"
    assert counts((await streams(decoder_address))["left"]) == {"received": 4, "decoded": 3, "failed": 1}


@pytest.mark.parametrize("sequence", [1 << 40, (1 << 64) - 1])
async def test_a_sequence_has_an_end(
    decoder_address: str, compressed: CompressedFrame, sequence: int
) -> None:
    invalid = (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    async with CameraNode.connect(decoder_address) as node:
        await node.write(StreamFramesRequest(open=camera_open(compressed, next_sequence=sequence)))
        assert await node.refusal() == invalid
    async with CameraNode.connect(decoder_address) as node:
        await node.resume(camera_open(compressed))
        await node.send(sequence, compressed, offset_us=0)
        assert await node.refusal() == invalid
    last = (1 << 40) - 1
    async with CameraNode.connect(decoder_address) as node:
        await node.resume(camera_open(compressed, next_sequence=last))
        await node.send(0, compressed)
        assert await node.ack() == last
        await node.send(0, compressed)
        assert await node.refusal() == invalid


async def test_a_message_without_a_frame(decoder_address: str, compressed: CompressedFrame) -> None:
    async with CameraNode.connect(decoder_address) as node:
        await node.resume(camera_open(compressed))
        await node.write(StreamFramesRequest(frames=FrameBatch()))
        assert await node.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


@pytest.mark.parametrize("delta_us", [1 << 62, -(1 << 62)])
async def test_a_time_out_of_this_world_costs_one_frame_and_no_list(
    decoder_address: str, compressed: CompressedFrame, delta_us: int
) -> None:
    async with CameraNode.connect(decoder_address) as node:
        await node.resume(camera_open(compressed))
        await node.send(1, compressed, offset_us=7)
        await node.send(2, compressed, offset_us=delta_us)
        answers = [await node.read() for _ in range(3)]
        stream = (await streams(decoder_address))["left"]
        assert from_timestamp(stream.last_capture_time) == EPOCH_US + 7
        await node.send(3, compressed, offset_us=8)
        answers += await node.finish()
    assert (errors(answers), acks(answers)) == ([(2, "FIELD_INVALID")], [1, 2, 3])
