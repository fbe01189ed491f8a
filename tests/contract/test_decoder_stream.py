"""StreamFrames: the handshake, order, credit, bad frames, acks, heartbeats and the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from decoder_service.conversation import Arrived, Conversation, Terms
from decoder_service.metrics import DecoderMetrics
from decoder_service.streams import Account, StreamKey, StreamRegistry
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.frames import Frame, read_image
from ndsc.service.errors import CREDIT_EXCEEDED, RefusedError
from ndsc.service.history import History
from ndsc.service.images import to_image
from ndsc.service.timestamps import MAX_TIME_US, from_timestamp, to_timestamp
from ndsc.v1 import catalog_pb2, types_pb2
from ndsc.v1.frame_stream_pb2 import Ack, Opened, StreamFramesRequest, StreamFramesResponse
from ndsc.v1.frame_stream_pb2 import Frame as FrameMessage
from ndsc.v1.side_information_pb2 import SideInformationFrame, StreamSideInformationRequest
from ndsc.v1.types_pb2 import Geometry, Heartbeat
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import EPOCH_US, CameraNode, SideNode, camera_open, side_open, streams, until


def errors(answers: list[StreamFramesResponse]) -> list[tuple[int, str]]:
    return [
        (answer.error.sequence, types_pb2.ErrorReason.Name(answer.error.reason).removeprefix("ERROR_REASON_"))
        for answer in answers
        if answer.WhichOneof("message") == "error"
    ]


def acks(answers: list[StreamFramesResponse]) -> list[int]:
    return [answer.ack.up_to_sequence for answer in answers if answer.WhichOneof("message") == "ack"]


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


async def test_credit_in_frames(
    start_decoder: StartDecoder, compressed: CompressedFrame, held_decoder: threading.Event
) -> None:
    address = address_of(await start_decoder(credit_frames=2))
    async with CameraNode.connect(address) as node:
        await node.open(camera_open(compressed))
        for sequence in (1, 2, 3):
            await node.send(sequence, compressed)
        assert await node.refusal() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CREDIT_EXCEEDED")
    stream = (await streams(address))["left"]
    assert (stream.received, stream.decoded, stream.abandoned, stream.open) == (3, 0, 3, False)
    assert not held_decoder.is_set()


async def test_credit_in_bytes(start_decoder: StartDecoder, compressed: CompressedFrame) -> None:
    address = address_of(await start_decoder(credit_bytes=1024))
    async with CameraNode.connect(address) as node:
        opened = await node.open(camera_open(compressed))
        assert opened.opened.credit.max_bytes == 1024
        await node.send(1, replace(compressed, payload=bytes(1028)))
        assert (await node.refusal())[1] == "CREDIT_EXCEEDED"


class Talk(Conversation[FrameMessage, StreamFramesResponse, None]):
    """A session whose frames need no work. `send` is the node's, `taken` gives the sequences."""

    def __init__(self, credit_frames: int) -> None:
        key = StreamKey(catalog_pb2.STREAM_KIND_CAMERA, "rig", "left")
        terms = Terms(credit_frames, credit_bytes=1 << 20, heartbeat_interval_ms=2000)
        super().__init__(
            Account(key, bytes(16), 1, 1),
            terms,
            StreamRegistry(1),
            StreamFramesResponse,
            history=History(None),
            metrics=DecoderMetrics(max_streams=1),
        )
        self.taken: asyncio.Queue[int] = asyncio.Queue()
        self._sent: asyncio.Queue[StreamFramesRequest | None] = asyncio.Queue()

    def opened(self, next_sequence: int) -> StreamFramesResponse:
        return StreamFramesResponse(opened=Opened())

    def ack(self, up_to_sequence: int) -> StreamFramesResponse:
        return StreamFramesResponse(ack=Ack(up_to_sequence=up_to_sequence))

    def size_bytes(self, frame: FrameMessage) -> int:
        return len(frame.payload)

    def capture_time_us(self, frame: FrameMessage) -> int:
        return 0

    async def take(self, arrived: Arrived[FrameMessage]) -> None:
        self.taken.put_nowait(arrived.sequence)

    def deliver(self, arrived: Arrived[FrameMessage], result: None) -> None:
        self.account.decoded += 1

    def send(self, sequence: int) -> None:
        self._sent.put_nowait(StreamFramesRequest(frame=FrameMessage(sequence=sequence)))

    def half_close(self) -> None:
        self._sent.put_nowait(None)

    async def _requests(self) -> AsyncIterator[StreamFramesRequest]:
        while (request := await self._sent.get()) is not None:
            yield request

    async def hold(self, write: Callable[[StreamFramesResponse], Awaitable[None]]) -> None:
        async with asyncio.timeout(5):
            await self.run(self._requests(), write)


async def test_acks_that_are_not_read_use_up_the_credit() -> None:
    talk = Talk(credit_frames=2)
    stuck = asyncio.Event()

    async def write(answer: StreamFramesResponse) -> None:
        if answer.WhichOneof("message") == "ack":
            stuck.set()
            await asyncio.Event().wait()

    session = asyncio.create_task(talk.hold(write))
    talk.send(1)
    await stuck.wait()
    for sequence in (2, 3):  # done with, but their acks wait behind the first
        talk.send(sequence)
    async with asyncio.timeout(5):
        assert [await talk.taken.get() for _ in range(3)] == [1, 2, 3]
    talk.send(4)
    with pytest.raises(RefusedError) as refused:
        await session
    assert refused.value.reason == CREDIT_EXCEEDED


async def test_a_frame_may_follow_an_ack_at_once() -> None:
    talk = Talk(credit_frames=1)

    async def write(answer: StreamFramesResponse) -> None:
        if answer.WhichOneof("message") != "ack":
            return
        await talk.taken.get()
        # The node has this ack before the write of it returns.
        if answer.ack.up_to_sequence == 5:
            talk.half_close()
            return
        talk.send(answer.ack.up_to_sequence + 1)
        talk.taken.put_nowait(await talk.taken.get())

    talk.send(1)
    await talk.hold(write)
    assert talk.account.decoded == 5


async def test_one_frame_of_any_size_fits_the_credit(
    start_decoder: StartDecoder, compressed: CompressedFrame
) -> None:
    address = address_of(await start_decoder(credit_bytes=1024))
    geometry = Geometry(width=1024, height=1024)
    async with CameraNode.connect(address) as node:
        opened = await node.open(camera_open(compressed, geometry=geometry))
    # 128x128 positions in three stages of at most 16, 8 and 4 steps cannot go into 1024 bytes.
    assert opened.opened.credit.max_bytes > 128 * 128


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
    written = read_image(
        tmp_path / "out" / "rig" / "left" / request.session_id.hex()[:8] / "00000007.png"
    )
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


async def test_bad_side_information_frames(decoder_address: str, side_picture: Frame) -> None:
    good = to_image(side_picture, types_pb2.IMAGE_FORMAT_PNG)
    other = to_image(np.zeros((8, 8, 3), np.uint8), types_pb2.IMAGE_FORMAT_PNG)
    now = to_timestamp(EPOCH_US)
    bad = [
        (SideInformationFrame(image=good), types_pb2.ERROR_REASON_FIELD_INVALID),
        (SideInformationFrame(capture_time=now), types_pb2.ERROR_REASON_FIELD_INVALID),
        (SideInformationFrame(capture_time=now, image=other), types_pb2.ERROR_REASON_IMAGE_INVALID),
    ]
    async with SideNode.connect(decoder_address) as node:
        opened = await node.open(side_open(side_picture))
        assert opened.opened.credit.max_frames == 4
        assert opened.opened.credit.max_bytes >= 4 * side_picture.nbytes
        for sequence, (frame, reason) in enumerate(bad, start=1):
            frame.sequence = sequence
            await node.write(StreamSideInformationRequest(frame=frame))
            error = (await node.read()).error
            assert (error.sequence, error.reason) == (sequence, reason)
            assert (await node.read()).ack.up_to_sequence == sequence
        assert (await node.send(4, side_picture, EPOCH_US)).ack.up_to_sequence == 4
    stream = (await streams(decoder_address))["right"]
    assert (stream.received, stream.decoded, stream.failed) == (4, 1, 3)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rig": "no name"}, "FIELD_INVALID"),
        ({"camera": ""}, "FIELD_INVALID"),
        ({"session_id": b""}, "FIELD_INVALID"),
        ({"geometry": None}, "FIELD_INVALID"),
        ({"geometry": Geometry(width=1 << 16, height=1 << 16)}, "GEOMETRY_UNSUPPORTED"),
    ],
)
async def test_bad_side_information_open(
    decoder_address: str, side_picture: Frame, fields: dict[str, Any], reason: str
) -> None:
    async with SideNode.connect(decoder_address) as node:
        await node.write(StreamSideInformationRequest(open=side_open(side_picture, **fields)))
        assert await node.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, reason)
