"""A decoder's end of the streams that does what a test says, and what else tests of a camera node need."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from encoder_service.metrics import NodeMetrics
from encoder_service.node import Node
from encoder_service.settings import EncoderSettings
from ndsc.service import errors
from ndsc.service.timestamps import from_timestamp
from ndsc.service.tls import Certificates
from ndsc.service.watched import Watched
from ndsc.sources import Clock, SourceFrame
from ndsc.v1 import frame_stream_pb2 as fs
from ndsc.v1 import side_information_pb2 as si
from ndsc.v1.frame_stream_pb2_grpc import (
    FrameStreamServiceServicer,
    add_FrameStreamServiceServicer_to_server,
)
from ndsc.v1.side_information_pb2_grpc import (
    SideInformationServiceServicer,
    add_SideInformationServiceServicer_to_server,
)
from ndsc.v1.types_pb2 import Credit, Drain, ErrorReason, FrameError, Heartbeat

WIDTH, HEIGHT = 40, 24
PATIENCE_S = 20
EPOCH_US = 1_700_000_000_000_000
AMPLE = Credit(max_frames=100, max_bytes=1 << 30)
NONE = Credit()


def picture(number: int, width: int = WIDTH) -> NDArray[np.uint8]:
    """uint8 [24, 40, 3]: a picture of its own for each number."""
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, width, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Received:
    """A frame as a decoder understands it: what follows from the frame before is filled in."""

    sequence: int
    capture_time_us: int
    message: Any
    """As it came."""

    @property
    def number(self) -> int:
        """Which frame of a scripted source it is, from 0."""
        return (self.capture_time_us - EPOCH_US) // 1000


class PeerCall:
    """One call of a node."""

    def __init__(self, context: Any, opened: Any, *, side: bool, tell: Callable[[], Awaitable[None]]) -> None:
        self.open = opened
        self.frames: list[Received] = []
        self.messages: list[int] = []
        """How many frames came in each message."""
        self.heartbeats = 0
        self.half_closed = False
        self.ended = False
        self.side = side
        self.certificate = context.auth_context().get("x509_pem_cert")
        """That the node shows."""
        self._context = context
        self._tell = tell
        self._writing = asyncio.Lock()
        self._ending: asyncio.Future[tuple[ErrorReason, str] | None] = (
            asyncio.get_running_loop().create_future()
        )
        self._sequence = 0
        self._time_us = 0 if side else from_timestamp(opened.capture_epoch)

    @property
    def sequences(self) -> list[int]:
        return [frame.sequence for frame in self.frames]

    async def say(self, **message: Any) -> None:
        make = si.StreamSideInformationResponse if self.side else fs.StreamFramesResponse
        async with self._writing:
            await self._context.write(make(**message))

    async def ack(self, up_to_sequence: int, credit: Credit = AMPLE) -> None:
        make = si.SideInformationAck if self.side else fs.Ack
        await self.say(ack=make(up_to_sequence=up_to_sequence, credit=credit))

    async def refuse_frame(self, sequence: int, reason: ErrorReason) -> None:
        await self.say(error=FrameError(sequence=sequence, reason=reason, message="said by the test"))

    async def drain(self, retry_after_ms: int = 50) -> None:
        await self.say(drain=Drain(retry_after_ms=retry_after_ms))

    def abort(self, reason: ErrorReason, message: str) -> None:
        """End the call with a reason."""
        self._ending.set_result((reason, message))

    def cut(self) -> None:
        """End the call as a broken link does, without a reason."""
        self._ending.set_result(None)

    async def converse(self, peer: Peer) -> None:
        """Read until the node has closed, or the call is to end."""
        reading = asyncio.create_task(self._read(peer))
        try:
            parts: set[asyncio.Future[Any]] = {reading, self._ending}
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if not self._ending.done():
                await reading
                return
            ending = self._ending.result()
            if ending is None:
                await self._context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            else:
                await errors.abort(self._context, *ending)
        finally:
            reading.cancel()
            self.ended = True
            await self._tell()

    async def _read(self, peer: Peer) -> None:
        if not peer.reads:
            await asyncio.Event().wait()
        while (request := await self._context.read()) is not grpc.aio.EOF:
            match request.WhichOneof("message"):
                case "frame":
                    await self._take(peer, [request.frame])
                case "frames":
                    await self._take(peer, list(request.frames.frames))
                case kind:
                    assert kind == "heartbeat"
                    self.heartbeats += 1
            await self._tell()
        self.half_closed = True
        await self._tell()

    async def _take(self, peer: Peer, frames: list[Any]) -> None:
        self.messages.append(len(frames))
        for frame in frames:
            self._sequence = frame.sequence or self._sequence + 1
            if self.side:
                self._time_us = from_timestamp(frame.capture_time)
            else:
                self._time_us += frame.capture_delta_us
            self.frames.append(Received(self._sequence, self._time_us, frame))
        if peer.ack_each:
            peer.done = self._sequence
            await self.ack(self._sequence, peer.credit)

    def begin(self, next_sequence: int) -> None:
        """The first frame's sequence where none is stated."""
        self._sequence = next_sequence - 1


@dataclass
class Peer(FrameStreamServiceServicer, SideInformationServiceServicer):
    """A decoder that takes one call after another. Set what the next ones get at any time."""

    credit: Credit = field(default_factory=lambda: AMPLE)
    heartbeat_ms: int = 2000
    ack_each: bool = True
    """Acknowledge every message at once, with the same credit."""
    alive: bool = True
    """Send heartbeats."""
    answers: bool = True
    """Answer `open`."""
    reads: bool = True
    """Read what comes after it."""
    refusals: Iterator[tuple[ErrorReason, str] | None] = field(default_factory=lambda: iter(()))
    """For each call, why it is refused; None, and after the last: it is not."""
    serves: bytes | None = None
    """The only bitstream that is not refused; None: any."""
    done: int = 0
    """Sequence that the next call goes on after, unless the node is further."""
    next_sequence: int | None = None
    """What `opened` says instead."""
    knows_session: bool | None = None
    """What `resumed` says; None: whether there was a call before."""
    preferred: bytes = b""
    calls: list[PeerCall] = field(default_factory=list)
    """Those that came to `opened`, or would have."""
    attempts: int = 0
    port: int = 0
    credentials: grpc.ServerCredentials | None = None
    """None: plaintext."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def call(self) -> PeerCall:
        """The latest."""
        return self.calls[-1]

    @property
    def frames(self) -> list[Received]:
        """Those of all calls."""
        return [frame for call in self.calls for frame in call.frames]

    async def start(self) -> None:
        """Serve, at the same port as the last time."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        add_FrameStreamServiceServicer_to_server(self, self._server)
        add_SideInformationServiceServicer_to_server(self, self._server)
        if self.credentials is None:
            self.port = self._server.add_insecure_port(self.address)
        else:
            self.port = self._server.add_secure_port(self.address, self.credentials)
        await self._server.start()

    async def stop(self) -> None:
        """Break off every call, and be gone."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def StreamFrames(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> None:
        await self._talk(context, side=False)

    async def StreamSideInformation(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> None:
        await self._talk(context, side=True)

    async def _talk(self, context: Any, *, side: bool) -> None:
        request = await context.read()
        assert request.WhichOneof("message") == "open"
        self.attempts += 1
        refusal = next(self.refusals, None)
        if self.serves is not None and request.open.bitstream_id != self.serves:
            refusal = errors.BITSTREAM_UNKNOWN, "not served here"
        if refusal is not None:
            await self._tell()
            await errors.abort(context, *refusal)
        call = PeerCall(context, request.open, side=side, tell=self._tell)
        resumed = bool(self.calls) if self.knows_session is None else self.knows_session
        if self.calls and self.call.open.session_id != call.open.session_id:
            self.done = 0
        self.calls.append(call)
        await self._tell()
        if not self.answers:
            await asyncio.Event().wait()
        next_sequence = self.next_sequence or max(self.done + 1, call.open.next_sequence)
        call.begin(next_sequence)
        facts: dict[str, Any] = {
            "next_sequence": next_sequence,
            "credit": self.credit,
            "heartbeat_interval_ms": self.heartbeat_ms,
            "resumed": resumed,
        }
        if side:
            await call.say(opened=si.SideInformationOpened(**facts))
        else:
            await call.say(opened=fs.Opened(**facts, preferred_bitstream_id=self.preferred))
        beats = asyncio.create_task(self._beat(call))
        try:
            await call.converse(self)
        finally:
            beats.cancel()

    async def _beat(self, call: PeerCall) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_ms / 2000)
            if self.alive:
                await call.say(heartbeat=Heartbeat())

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a message of the node brings about."""
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(condition)

    async def until_frames(self, count: int) -> None:
        """Wait for so many frames, in all calls together."""
        await self.until(lambda: len(self.frames) >= count)

    async def until_calls(self, count: int) -> None:
        await self.until(lambda: len(self.calls) >= count)

    async def until_idle(self) -> None:
        """Two heartbeats more: the node had time to send a frame if it wanted to."""
        seen = self.call.heartbeats
        await self.until(lambda: self.call.heartbeats >= seen + 2)


@asynccontextmanager
async def serve(peer: Peer) -> AsyncIterator[Peer]:
    """A peer that serves until the end."""
    await peer.start()
    try:
        yield peer
    finally:
        await peer.stop()


class ScriptedSource:
    """Gives frames when the test says so; `give` returns when the node's queue has them."""

    clock: Clock = "unsynchronized"
    epoch_us = EPOCH_US

    def __init__(self, first: int = 0, *, width: int = WIDTH) -> None:
        """`first`: number of its first frame, where an earlier source of the same node left off."""
        self.width, self.height = width, HEIGHT
        self._orders: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._done = threading.Semaphore(0)
        self._count = first

    def __iter__(self) -> Iterator[SourceFrame]:
        while (order := self._orders.get()) is not None:
            if isinstance(order, BaseException):
                raise order
            try:
                for _ in range(order):
                    image = picture(self._count, self.width)
                    yield SourceFrame(image, self.epoch_us + 1000 * self._count, str(self._count))
                    self._count += 1
            finally:
                self._done.release()

    async def give(self, frames: int) -> None:
        self._orders.put(frames)
        assert await asyncio.to_thread(self._done.acquire, timeout=PATIENCE_S)

    def fail(self, error: BaseException) -> None:
        self._orders.put(error)

    def close(self) -> None:
        self._orders.put(None)


class Nodes:
    """Makes nodes with the tiny bundle that lose no frame, and come back at once."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle

    def __call__(
        self,
        peer: Peer,
        source: Path | str,
        *,
        certificates: Watched[Certificates] | None = None,
        **more: Any,
    ) -> Node:
        values: dict[str, Any] = {
            "pace": "credit",
            "bundle": self._bundle,
            "threads": 1,
            "reconnect_max_s": 0.05,
            "decoder": peer.address,
            "source": str(source),
            **more,
        }
        return Node(EncoderSettings(**values), NodeMetrics(), certificates)


async def quietly(connected: bool) -> None:
    """Nothing to do when a call is opened or ended."""


async def run(node: Node, on_connection: Callable[[bool], Awaitable[None]] = quietly) -> dict[str, Any]:
    """Run to the end and check the account."""
    async with asyncio.timeout(PATIENCE_S):
        await node.run(on_connection)
    return checked(node)


def checked(node: Node) -> dict[str, Any]:
    """The account of a node that has nothing left, which must add up."""
    summary = node.summary()
    assert summary["captured"] == summary["sent"] + summary["dropped"]
    assert summary["sent"] == summary["acked"] + summary["unknown"]
    assert summary["waiting"] == 0
    return summary
