"""One call by itself: its credit, and what it settles when another takes over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import grpc
import pytest

from decoder_service import conversation
from decoder_service.conversation import Arrived, Conversation, Terms
from decoder_service.metrics import DecoderMetrics
from decoder_service.streams import Account, StreamKey, StreamRegistry
from ndsc.codec.bitstream import CompressedFrame
from ndsc.service.errors import CREDIT_EXCEEDED, SESSION_SUPERSEDED, RefusedError
from ndsc.service.history import History
from ndsc.v1 import catalog_pb2
from ndsc.v1.frame_stream_pb2 import Ack, Opened, StreamFramesRequest, StreamFramesResponse
from ndsc.v1.frame_stream_pb2 import Frame as FrameMessage
from ndsc.v1.types_pb2 import Credit, Geometry
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    CameraNode,
    camera_open,
    streams,
)


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

    def ack(self, up_to_sequence: int, credit: Credit) -> StreamFramesResponse:
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


async def test_what_is_finished_as_another_call_takes_over_is_left_to_that_one() -> None:
    said: list[str | None] = []

    async def write(answer: StreamFramesResponse) -> None:
        said.append(answer.WhichOneof("message"))

    class TakenOver(Talk):
        async def take(self, arrived: Arrived[FrameMessage]) -> None:
            self.end(RefusedError(SESSION_SUPERSEDED, "opened again"))

    talk = TakenOver(credit_frames=2)
    talk.send(1)
    with pytest.raises(RefusedError, match="opened again"):
        await talk.hold(write)
    assert said == ["opened"]
    account = talk.account
    assert (account.received, account.decoded, account.abandoned, account.done_sequence) == (1, 0, 1, 0)


async def test_a_refusal_waits_for_the_write_under_way() -> None:
    """gRPC cannot end a call with a status while a message is being written: the node would not hear why."""
    talk = Talk(credit_frames=1)
    writing, go_on = asyncio.Event(), asyncio.Event()

    async def write(answer: StreamFramesResponse) -> None:
        writing.set()
        await go_on.wait()

    session = asyncio.create_task(talk.hold(write))
    await writing.wait()
    talk.end(RefusedError(CREDIT_EXCEEDED, "over"))
    await asyncio.sleep(0.05)
    assert not session.done()
    go_on.set()
    with pytest.raises(RefusedError, match="over"):
        await session


async def test_a_refusal_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_LAST_WRITE_S", 0.01)
    talk = Talk(credit_frames=1)
    writing = asyncio.Event()

    async def write(answer: StreamFramesResponse) -> None:
        writing.set()
        await asyncio.Event().wait()

    session = asyncio.create_task(talk.hold(write))
    await writing.wait()
    talk.end(RefusedError(CREDIT_EXCEEDED, "over"))
    with pytest.raises(RefusedError, match="over"):
        await session
