"""StreamFrames: the handshake, order, bad frames, acks, heartbeats and the end."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.frames import Frame, read_image
from ndsc.service.timestamps import MAX_TIME_US, from_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2 import StreamFramesRequest, StreamFramesResponse
from ndsc.v1.types_pb2 import Geometry, Heartbeat
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    EPOCH_US,
    CameraNode,
    SideNode,
    acks,
    camera_open,
    errors,
    side_open,
    streams,
    until,
)


async def test_frames_are_acknowledged_in_order(decoder_address: str, compressed: CompressedFrame) -> None:
    async with CameraNode.connect(decoder_address) as node:
        opened = (await node.open(camera_open(compressed))).opened
        assert opened.next_sequence == 1
        assert (opened.credit.max_frames, opened.credit.max_bytes) == (4, 1 << 20)
        assert opened.heartbeat_interval_ms == 2000
        await node.send(1, compressed)
        first = await node.read()
        assert (first.ack.up_to_sequence, first.ack.credit.max_frames) == (1, 4)
        await node.send(2, compressed)
        await node.send(5, compressed, dropped_before=2)  # gaps are the node's affair
        assert acks(await node.finish()) == [2, 5]
        assert await node.call.code() is grpc.StatusCode.OK
    stream = (await streams(decoder_address))["left"]
    assert (stream.received, stream.decoded, stream.failed, stream.dropped) == (3, 3, 0, 2)
    assert stream.received_bytes == 3 * len(compressed.payload)
    assert from_timestamp(stream.last_capture_time) == EPOCH_US + 500_000
    assert not stream.open


async def test_frames_queued_at_half_close_are_finished(
    start_decoder: StartDecoder, compressed: CompressedFrame, held_decoder: threading.Event
) -> None:
    address = address_of(await start_decoder())
    async with CameraNode.connect(address) as node:
        await node.open(camera_open(compressed))
        for sequence in (1, 2, 3, 4):
            await node.send(sequence, compressed)
        await node.call.done_writing()
        await until(address, lambda streams: streams["left"].received == 4)
        held_decoder.set()
        assert acks(await node.finish()) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"rig": ""}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"rig": ".."}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"rig": "a/b"}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"camera": "x" * 65}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"camera": "left\n"}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"session_id": b"short"}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"bitstream_id": b""}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"bitstream_id": bytes(16)}, "FAILED_PRECONDITION", "BITSTREAM_UNKNOWN"),
        ({"delivery": types_pb2.DELIVERY_UNSPECIFIED}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"delivery": types_pb2.DELIVERY_ARCHIVE}, "FAILED_PRECONDITION", "DELIVERY_UNSUPPORTED"),
        ({"geometry": None}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"geometry": Geometry(width=40)}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"geometry": Geometry(width=4096, height=8)}, "INVALID_ARGUMENT", "GEOMETRY_UNSUPPORTED"),
        ({"clock": 77}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"frame_id": "x" * 300}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"capture_epoch": None}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"side_information_streams": ["right", "right"]}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"side_information_streams": ["no name"]}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"side_information_streams": [str(n) for n in range(9)]}, "INVALID_ARGUMENT", "FIELD_INVALID"),
    ],
)
async def test_bad_open(
    decoder_address: str, compressed: CompressedFrame, fields: dict[str, Any], code: str, reason: str
) -> None:
    async with CameraNode.connect(decoder_address) as node:
        await node.write(StreamFramesRequest(open=camera_open(compressed, **fields)))
        got_code, got_reason = await node.refusal()
    assert (got_code.name, got_reason) == (code, reason)


async def test_first_message_must_open(decoder_address: str, compressed: CompressedFrame) -> None:
    state = (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_STATE")
    async with CameraNode.connect(decoder_address) as node:
        await node.send(1, compressed)
        assert await node.refusal() == state
    async with CameraNode.connect(decoder_address) as node:
        await node.call.done_writing()
        assert await node.refusal() == state


async def test_handshake_has_a_deadline(start_decoder: StartDecoder) -> None:
    decoder = await start_decoder(handshake_timeout_s=0.05)
    async with CameraNode.connect(address_of(decoder)) as node:
        assert (await node.refusal())[1] == "SESSION_STATE"


async def test_open_twice_and_empty_message(decoder_address: str, compressed: CompressedFrame) -> None:
    for request, reason in (
        (StreamFramesRequest(open=camera_open(compressed)), "SESSION_STATE"),
        (StreamFramesRequest(), "FIELD_INVALID"),
    ):
        async with CameraNode.connect(decoder_address) as node:
            await node.open(camera_open(compressed))
            await node.write(request)
            assert (await node.refusal())[1] == reason


@pytest.mark.parametrize("sequences", [(1, 1), (5, 4), (5, 0, 6)])
async def test_sequences_must_increase(
    decoder_address: str, compressed: CompressedFrame, sequences: tuple[int, ...]
) -> None:
    async with CameraNode.connect(decoder_address) as node:
        await node.open(camera_open(compressed))
        for sequence in sequences:
            await node.send(sequence, compressed)
        assert await node.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, "SEQUENCE_NOT_INCREASING")


async def test_bad_frames_do_not_end_the_stream(decoder_address: str, compressed: CompressedFrame) -> None:
    payload = compressed.payload
    flipped = payload[:3] + bytes([payload[3] ^ 0x10]) + payload[4:]
    bad = [
        (replace(compressed, payload=payload[: len(payload) // 4 * 4 - 3]), "PAYLOAD_SIZE"),
        (replace(compressed, payload=flipped), "PAYLOAD_CORRUPT"),
        (replace(compressed, payload=b""), "PAYLOAD_SIZE"),
        (replace(compressed, rate_level=3), "RATE_LEVEL_UNKNOWN"),
    ]
    answers: list[StreamFramesResponse] = []
    async with CameraNode.connect(decoder_address) as node:
        await node.open(camera_open(compressed))
        for sequence, (frame, _) in enumerate(bad, start=1):
            await node.send(sequence, frame)
            answers += [await node.read(), await node.read()]
        await node.send(5, compressed, offset_us=MAX_TIME_US)
        answers += [await node.read(), await node.read()]
        await node.send(6, compressed)
        answers += await node.finish()
    expected = [(sequence, reason) for sequence, (_, reason) in enumerate(bad, start=1)]
    assert errors(answers) == [*expected, (5, "FIELD_INVALID")]
    assert acks(answers) == [1, 2, 3, 4, 5, 6]
    stream = (await streams(decoder_address))["left"]
    assert (stream.received, stream.decoded, stream.failed) == (6, 1, 5)


async def test_a_decoder_that_fails_costs_one_frame(
    decoder_address: str, compressed: CompressedFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        def fail(*_: object) -> list[Frame]:
            raise MemoryError("no memory at secret place")

        broken.setattr(FrameDecoder, "decode_batch", fail)
        async with CameraNode.connect(decoder_address) as node:
            await node.open(camera_open(compressed))
            await node.send(1, compressed)
            failed = [await node.read(), await node.read()]
            broken.undo()
            await node.send(2, compressed)
            answers = await node.finish()
    assert errors(failed) == [(1, "DECODER_FAILED")]
    assert "secret" not in failed[0].error.message
    assert (errors(answers), acks(answers)) == ([], [2])


async def test_a_second_session_takes_over(decoder_address: str, compressed: CompressedFrame) -> None:
    async with CameraNode.connect(decoder_address) as old, CameraNode.connect(decoder_address) as new:
        await old.open(camera_open(compressed))
        await new.open(camera_open(compressed))
        assert await old.refusal() == (grpc.StatusCode.ABORTED, "SESSION_SUPERSEDED")
        await new.send(1, compressed)
        assert acks([await new.read()]) == [1]
        assert ((await streams(decoder_address))["left"]).open


async def test_session_limit_is_of_each_kind(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    address = address_of(await start_decoder(max_sessions=1))
    async with CameraNode.connect(address) as first, CameraNode.connect(address) as second:
        await first.open(camera_open(compressed))
        await second.write(StreamFramesRequest(open=camera_open(compressed, camera="other")))
        assert await second.refusal() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SESSION_LIMIT")
        async with SideNode.connect(address) as side:
            assert (await side.open(side_open(side_picture))).WhichOneof("message") == "opened"


async def test_heartbeats_come_when_there_is_nothing_else(
    start_decoder: StartDecoder, compressed: CompressedFrame
) -> None:
    address = address_of(await start_decoder(heartbeat_interval_ms=50))
    async with CameraNode.connect(address) as node:
        await node.open(camera_open(compressed))
        answer = await node.read(heartbeats=True)
        assert answer.WhichOneof("message") == "heartbeat"


async def test_a_silent_node_is_given_up(start_decoder: StartDecoder, compressed: CompressedFrame) -> None:
    address = address_of(await start_decoder(heartbeat_interval_ms=200))
    loop = asyncio.get_running_loop()
    async with CameraNode.connect(address) as node:
        await node.open(camera_open(compressed))
        began = loop.time()
        for _ in range(5):  # longer than the silence that ends a session
            await node.write(StreamFramesRequest(heartbeat=Heartbeat()))
            await node.read(heartbeats=True)
        assert loop.time() - began > 0.6
        assert (await node.refusal())[1] == "PEER_SILENT"


async def test_a_node_that_vanishes_leaves_no_session(
    decoder_address: str, compressed: CompressedFrame
) -> None:
    async with CameraNode.connect(decoder_address) as node:
        await node.open(camera_open(compressed))
        assert (await streams(decoder_address))["left"].open
    await until(decoder_address, lambda streams: not streams["left"].open)


async def test_one_camera_does_not_disturb_another(decoder_address: str, compressed: CompressedFrame) -> None:
    async with CameraNode.connect(decoder_address) as good, CameraNode.connect(decoder_address) as bad:
        await good.open(camera_open(compressed))
        await bad.open(camera_open(compressed, camera="other"))
        await bad.send(1, compressed)
        await bad.send(1, compressed)
        await bad.refusal()
        await good.send(1, compressed)
        assert acks(await good.finish()) == [1]


async def test_frames_are_written_to_a_folder(
    start_decoder: StartDecoder, compressed: CompressedFrame, tiny_decoder: FrameDecoder, tmp_path: Path
) -> None:
    address = address_of(await start_decoder(write_frames=tmp_path / "out"))
    async with CameraNode.connect(address) as node:
        request = camera_open(compressed)
        await node.open(request)
        await node.send(7, compressed)
        await node.finish()
    written = read_image(tmp_path / "out" / "rig" / "left" / request.session_id.hex()[:8] / "00000007.png")
    np.testing.assert_array_equal(written, tiny_decoder.decode(compressed))


async def test_a_folder_that_cannot_be_written_costs_no_frame(
    start_decoder: StartDecoder, compressed: CompressedFrame, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    address = address_of(await start_decoder(write_frames=tmp_path / "out"))
    async with CameraNode.connect(address) as node:
        await node.open(camera_open(compressed))
        await node.send(1, compressed)
        answers = await node.finish()
    assert (errors(answers), acks(answers)) == ([], [1])
