"""The server's end of one call of a node's stream: handshake, order, credit, acks, heartbeats and the end.

    node ──frames──→ reader ──≤ credit──→ worker ──acks, errors──→ writer ──→ node

The reader never waits for the worker, so a node that breaks its credit is seen at once, as is a silent one.
What becomes of a frame is settled in one step of the event loop, and a call that has been superseded settles
nothing more: its successor can say for certain where to go on.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import structlog

from decoder_service.fields import check_sequence
from decoder_service.metrics import DecoderMetrics
from decoder_service.streams import Account, StreamRegistry
from ndsc.codec.errors import NdscError
from ndsc.service.errors import (
    CREDIT_EXCEEDED,
    DECODER_FAILED,
    FIELD_INVALID,
    PEER_SILENT,
    RETRY_AFTER_DRAIN_MS,
    SEQUENCE_NOT_INCREASING,
    SESSION_STATE,
    RefusedError,
    reason_name,
    reason_of,
)
from ndsc.service.history import History
from ndsc.service.logs import RateLimitedLog
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2 import StreamFramesResponse
from ndsc.v1.side_information_pb2 import StreamSideInformationResponse
from ndsc.v1.types_pb2 import Credit, ErrorReason

_SILENT_INTERVALS: Final = 3
_LAST_WRITE_S: Final = 1.0


@dataclass(frozen=True)
class Terms:
    """What a node is held to."""

    credit_frames: int
    credit_bytes: int
    heartbeat_interval_ms: int

    def credit(self) -> Credit:
        """As it is sent."""
        return Credit(max_frames=self.credit_frames, max_bytes=self.credit_bytes)


class AnyFrame(Protocol):
    """What frames of both kinds of stream have in common."""

    @property
    def sequence(self) -> int:
        """Counts from 1 and increases; 0: one more than the frame before."""

    @property
    def dropped_before(self) -> int:
        """Frames the node gave up since the one before this."""


class AnyRequest(Protocol):
    """What requests of both kinds of stream have in common."""

    def WhichOneof(self, oneof_group: Literal["message"], /) -> str | None:  # noqa: N802 - protobuf's name
        """`open`, `frame`, `frames`, `heartbeat` or None."""


RequestT = TypeVar("RequestT", bound=AnyRequest)
FrameT = TypeVar("FrameT", bound=AnyFrame)
AnswerT = TypeVar("AnswerT", StreamFramesResponse, StreamSideInformationResponse)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Arrived(Generic[FrameT]):
    """A frame as it came in."""

    frame: FrameT
    sequence: int
    capture_time_us: int
    """Microseconds since the Unix epoch, as stated: `take` refuses what is no legal time."""
    size_bytes: int
    """What it takes of the credit."""
    time: float
    """Event loop time of its arrival."""


class Conversation(ABC, Generic[FrameT, AnswerT, ResultT]):
    """One open call. Subclasses say what to do with a frame."""

    def __init__(
        self,
        account: Account,
        terms: Terms,
        registry: StreamRegistry,
        answer: type[AnswerT],
        *,
        history: History,
        metrics: DecoderMetrics,
    ) -> None:
        session = account.session_id.hex()
        self.account = account
        self.terms = terms
        self.log: Any = structlog.get_logger(__name__).bind(
            rig=account.key.rig, camera=account.key.camera, session=session[:8]
        )
        self.history = history.bind(rig=account.key.rig, camera=account.key.camera, session=session)
        self.metrics = metrics
        self._warnings = RateLimitedLog(self.log)
        self._registry = registry
        self._answer: type[AnswerT] = answer
        self._waiting: asyncio.Queue[Arrived[FrameT] | None] = asyncio.Queue()
        self._unsettled: dict[int, Arrived[FrameT]] = {}
        # Each answer with the frame whose credit it gives back. A frame is in flight until then, so a node
        # that reads no answers runs out of credit, and what waits here is bounded.
        self._outbox: asyncio.Queue[tuple[AnswerT, Arrived[FrameT] | None] | None] = asyncio.Queue()
        self._writing: asyncio.Future[None] | None = None
        self._frames_in_flight = 0
        self._bytes_in_flight = 0
        self._ended: asyncio.Future[RefusedError] = asyncio.get_running_loop().create_future()

    @abstractmethod
    def opened(self, next_sequence: int) -> AnswerT:
        """Begin, now that the stream is entered; the answer to `open`."""

    @abstractmethod
    def ack(self, up_to_sequence: int, credit: Credit) -> AnswerT:
        """The answer to frames that are done with."""

    def credit_after(self, arrived: Arrived[FrameT]) -> Credit:
        """What goes with the acknowledgement of a frame."""
        return self.terms.credit()

    @abstractmethod
    def size_bytes(self, frame: FrameT) -> int:
        """What a frame takes of the credit."""

    @abstractmethod
    def capture_time_us(self, frame: FrameT) -> int:
        """Capture time as stated, in microseconds since the Unix epoch; called once for each frame, in order."""

    @abstractmethod
    async def take(self, arrived: Arrived[FrameT]) -> ResultT:
        """Do what the stream is for. Raises NdscError for a bad frame."""

    @abstractmethod
    def deliver(self, arrived: Arrived[FrameT], result: ResultT) -> None:
        """Let others have what `take` made, in the same step in which the frame is settled. Never waits."""

    @property
    def frames_in_flight(self) -> int:
        """Frames received and not acknowledged yet."""
        return self._frames_in_flight

    @property
    def ended(self) -> bool:
        """Whether the call has been broken off; it must settle nothing more."""
        return self._ended.done()

    def end(self, error: RefusedError) -> None:
        """Break the call off, with this error."""
        if not self._ended.done():
            self._ended.set_result(error)

    def warn(self, event: str, **facts: object) -> None:
        """Log a warning; the same event at most every ten seconds, for it may come with every frame."""
        self._warnings.warning(event, **facts)

    def keep(self, arrived: Arrived[FrameT]) -> None:
        """A frame has come to stay, whatever becomes of the call: it is not abandoned when the call breaks off."""
        if self._unsettled.pop(arrived.sequence, None) is None:
            self.account.abandoned -= 1  # the call has broken off meanwhile, and counted it

    def ask_to_drain(self) -> None:
        """Ask the node to finish and close."""
        self._say(self._answer(drain=types_pb2.Drain(retry_after_ms=RETRY_AFTER_DRAIN_MS)))

    async def run(self, requests: AsyncIterator[Any], write: Callable[[AnswerT], Awaitable[None]]) -> None:
        """Hold the call until the node has closed it and all its frames are answered.

        Raises RefusedError when the node breaks the rules, or another call takes over.
        """
        account = self.account
        try:
            self._registry.open(account, self)
        except RefusedError as error:
            self._log_refusal(error)
            raise
        self.log.info("stream opened", width=account.width, height=account.height)
        first_sequence = account.done_sequence + 1
        self._say(self.opened(first_sequence))
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                group.create_task(self._write(write))
                group.create_task(self._work(watch))
                group.create_task(self._read(requests, first_sequence))
        except BaseExceptionGroup as errors:
            refusal = _first_refusal(errors)
            if refusal is None:
                raise
            self._log_refusal(refusal)
            raise refusal from None
        finally:
            await self._finish_writing()
            account.abandoned += len(self._unsettled)
            self.metrics.abandoned(account.key, len(self._unsettled))
            for sequence in self._unsettled:
                self.history.record("abandoned", sequence=sequence)
            self._unsettled.clear()
            self._registry.close(account, self)
            self.history.record("closed")
            self.log.info(
                "stream closed",
                received=account.received,
                decoded=account.decoded,
                failed=account.failed,
                abandoned=account.abandoned,
                dropped=account.dropped,
            )

    def _log_refusal(self, refusal: RefusedError) -> None:
        self.log.warning("stream refused", reason=reason_name(refusal.reason), message=str(refusal))

    async def _watch(self) -> None:
        raise await self._ended

    async def _read(self, requests: AsyncIterator[Any], first_sequence: int) -> None:
        silence_s = _SILENT_INTERVALS * self.terms.heartbeat_interval_ms / 1000
        last_sequence = first_sequence - 1
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    request = await anext(requests, None)
            except TimeoutError:
                raise RefusedError(
                    PEER_SILENT,
                    f"nothing came for {silence_s:g} s, not even a heartbeat; open another call",
                ) from None
            if request is None:
                self._waiting.put_nowait(None)
                return
            kind = request.WhichOneof("message")
            frames: Sequence[FrameT] = ()
            if kind == "frame":
                frames = (request.frame,)
            elif kind == "frames":
                frames = request.frames.frames
            elif kind == "open":
                raise RefusedError(SESSION_STATE, "`open` came twice; one call opens once")
            if not frames and kind != "heartbeat":
                raise RefusedError(FIELD_INVALID, "a message held neither frames nor a heartbeat")
            for frame in frames:
                sequence = frame.sequence or last_sequence + 1
                check_sequence(sequence)
                if sequence <= last_sequence:
                    raise RefusedError(
                        SEQUENCE_NOT_INCREASING,
                        f"sequence {sequence} came after {last_sequence}; sequences count up from 1, and a "
                        f"resumed session goes on where `opened` says",
                    )
                last_sequence = sequence
                self._enqueue(frame, sequence)

    def _enqueue(self, frame: FrameT, sequence: int) -> None:
        now = asyncio.get_running_loop().time()
        arrived = Arrived(frame, sequence, self.capture_time_us(frame), self.size_bytes(frame), now)
        self.account.received += 1
        self.account.received_bytes += arrived.size_bytes
        self.metrics.received(self.account.key, arrived.size_bytes)
        self._unsettled[sequence] = arrived
        self._frames_in_flight += 1
        self._bytes_in_flight += arrived.size_bytes
        self.history.record("received", sequence=sequence)
        if (
            self._frames_in_flight > self.terms.credit_frames
            or self._bytes_in_flight > self.terms.credit_bytes
        ):
            raise RefusedError(
                CREDIT_EXCEEDED,
                f"{self._frames_in_flight} frames ({self._bytes_in_flight} bytes) are in flight, "
                f"but the credit is {self.terms.credit_frames} frames "
                f"({self.terms.credit_bytes} bytes); wait for acks",
            )
        self._waiting.put_nowait(arrived)

    async def _work(self, watch: asyncio.Task[None]) -> None:
        while (arrived := await self._waiting.get()) is not None:
            error: NdscError | None = None
            try:
                result = await self.take(arrived)
            except NdscError as refused:
                error = refused
            except Exception:
                # One frame must never end a session; what is wrong belongs in the log, not on the wire.
                self.log.exception("frame failed", sequence=arrived.sequence)
                error = RefusedError(DECODER_FAILED, "the decoder failed on this frame; its log says why")
            if self.ended:
                return
            self._unsettled.pop(arrived.sequence, None)
            self.account.done_sequence = max(self.account.done_sequence, arrived.sequence)
            # Counted here and not on arrival: a frame that is sent again says it again.
            self.account.dropped += arrived.frame.dropped_before
            self.metrics.dropped(self.account.key, arrived.frame.dropped_before)
            if error is None:
                self.deliver(arrived, result)
            else:
                self._report(arrived.sequence, reason_of(error), str(error))
            self._say(self.ack(arrived.sequence, self.credit_after(arrived)), done=arrived)
        watch.cancel()
        self._outbox.put_nowait(None)

    def _report(self, sequence: int, reason: ErrorReason, message: str) -> None:
        self.account.failed += 1
        self.metrics.failed(self.account.key, reason)
        self.history.record("failed", sequence=sequence, reason=reason_name(reason))
        self.warn("frame refused", sequence=sequence, reason=reason_name(reason), message=message)
        self._say(self._answer(error=types_pb2.FrameError(sequence=sequence, reason=reason, message=message)))

    def _say(self, answer: AnswerT, *, done: Arrived[FrameT] | None = None) -> None:
        self._outbox.put_nowait((answer, done))

    async def _write(self, write: Callable[[AnswerT], Awaitable[None]]) -> None:
        while True:
            try:
                async with asyncio.timeout(self.terms.heartbeat_interval_ms / 1000):
                    said = await self._outbox.get()
            except TimeoutError:
                said = self._answer(heartbeat=types_pb2.Heartbeat()), None
            if said is None:
                return
            answer, done = said
            if done is not None:
                # Not after the write: the node may have the ack, and send its next frame, before that returns.
                self._frames_in_flight -= 1
                self._bytes_in_flight -= done.size_bytes
            self._writing = asyncio.ensure_future(write(answer))
            await asyncio.shield(self._writing)

    async def _finish_writing(self) -> None:
        """Let the write under way end, for a while: gRPC cannot end a call with a status in the midst of one."""
        if self._writing is None or self._writing.done():
            return
        await asyncio.wait((self._writing,), timeout=_LAST_WRITE_S)
        self._writing.cancel()


def _first_refusal(errors: BaseExceptionGroup[BaseException]) -> RefusedError | None:
    for error in errors.exceptions:
        if isinstance(error, RefusedError):
            return error
    return None
