"""One call to a decoder: open, credit, acknowledgements, errors of single frames, heartbeats.

Camera sessions and side-information streams differ in their messages alone, so one class serves both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import grpc
import grpc.aio
import structlog

from encoder_service.frames import Numbered
from encoder_service.role import Call, Request, Response
from ndsc.codec.errors import NdscError
from ndsc.service.errors import describe, is_retryable, reason_name
from ndsc.v1.frame_stream_pb2 import Opened
from ndsc.v1.side_information_pb2 import SideInformationOpened
from ndsc.v1.types_pb2 import Credit

T = TypeVar("T")

_DEFAULT_HEARTBEAT_MS: Final = 2_000
_SILENT_INTERVALS: Final = 3


class SessionError(NdscError):
    """The decoder is not there, refused the session, or broke it off."""

    def __init__(
        self, message: str, *, retryable: bool, reason: str | None = None, unavailable: bool = False
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        """Whether the session may go on in another call."""
        self.reason = reason
        """Name from the table of reasons, if the decoder gave one."""
        self.unavailable = unavailable
        """gRPC said UNAVAILABLE and no more: no one listens, or the certificates do not fit."""


class TooLargeError(NdscError):
    """A frame that no credit of this decoder will ever cover."""


class Receiver(Protocol):
    """Who is told what the decoder says of frames."""

    def acknowledged(self, up_to_sequence: int, times_s: Sequence[float]) -> None:
        """Frames of this call are done with, each so many seconds after it was sent."""

    def failed(self, sequence: int, reason: str) -> None:
        """The decoder could not take a frame of this call; its acknowledgement follows."""


@dataclass(frozen=True)
class _Sent:
    payload_bytes: int
    time_s: float


class Uplink:
    """An open call, and the frames in flight on it."""

    def __init__(
        self,
        call: Call,
        *,
        heartbeat: Request,
        address: str,
        receiver: Receiver,
        changed: asyncio.Event,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`changed` is set whenever what `until` waits for may have come true."""
        self._call = call
        self._heartbeat = heartbeat
        self._address = address
        self._receiver = receiver
        self._log = log
        self._credit = Credit()
        self._in_flight: dict[int, _Sent] = {}
        self._refused: set[int] = set()
        self._interval_s = _DEFAULT_HEARTBEAT_MS / 1000
        self._changed = changed
        self._writing = asyncio.Lock()
        self._last_write_s = 0.0
        self._last_sequence = 0
        self._closing = False
        self._ended = False
        self._error: SessionError | None = None
        self._status: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._remember_status)
        self._tasks: list[asyncio.Task[None]] = []
        self.draining = False
        """The decoder is about to shut down and takes no more frames."""
        self.retry_after_s = 0.0
        """When to come back after that."""

    @property
    def in_flight(self) -> int:
        """Frames sent on this call and not acknowledged yet."""
        return len(self._in_flight)

    @property
    def credit(self) -> Credit:
        """As the decoder gave it last."""
        return self._credit

    async def open(self, request: Request, timeout_s: float) -> Opened | SideInformationOpened:
        """Send `request`, the call's `open`, and wait for the answer. Raises SessionError."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._call.write(request)
                response = await self._call.read()
        except TimeoutError:
            raise SessionError(
                f"the decoder at {self._address} did not open the session within {timeout_s:g} s; "
                f"check that a decoder listens there",
                retryable=True,
            ) from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self._why() from error
        if not isinstance(response, Response) or response.WhichOneof("message") != "opened":
            raise SessionError(
                f"the decoder at {self._address} did not answer as the contract says", retryable=False
            )
        opened = response.opened
        self._credit = opened.credit
        self._interval_s = (opened.heartbeat_interval_ms or _DEFAULT_HEARTBEAT_MS) / 1000
        self._last_sequence = max(0, opened.next_sequence - 1)
        self._last_write_s = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._beat())]
        return opened

    def covers(self, frames: int, payload_bytes: int) -> bool:
        """Whether the credit covers so much more."""
        if len(self._in_flight) + frames > self._credit.max_frames:
            return False
        in_flight_bytes = sum(sent.payload_bytes for sent in self._in_flight.values())
        return in_flight_bytes + payload_bytes <= self._credit.max_bytes

    def free_frames(self) -> int:
        """How many more frames the credit covers, their size aside."""
        return max(0, self._credit.max_frames - len(self._in_flight))

    def check_size(self, payload_bytes: int) -> None:
        """Raise TooLargeError for a frame that the credit will never cover."""
        if not self._in_flight and 0 < self._credit.max_bytes < payload_bytes:
            raise TooLargeError(
                f"a frame of {payload_bytes} bytes is beyond the {self._credit.max_bytes} bytes that the decoder "
                f"at {self._address} takes; use a lower rate or smaller frames"
            )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises SessionError once the call has ended."""
        while True:
            if self._error is not None:
                raise self._error
            if condition():
                return
            self._changed.clear()
            await self._changed.wait()

    async def send(self, frames: Sequence[Numbered], request: Request) -> None:
        """Send frames that the credit covers, in one message. Raises SessionError."""
        now_s = asyncio.get_running_loop().time()
        for frame in frames:
            self._in_flight[frame.sequence] = _Sent(len(frame.data), now_s)
            self._last_sequence = frame.sequence
        await self._write(request)

    async def finish(self, patience_s: float) -> None:
        """Wait for all acknowledgements, then end the call.

        Raises SessionError when the decoder breaks off or acknowledges nothing for `patience_s`.
        """
        while self._in_flight:
            before = len(self._in_flight)
            try:
                async with asyncio.timeout(patience_s):
                    await self.until(lambda: len(self._in_flight) < before)  # noqa: B023 (awaited within the iteration)
            except TimeoutError:
                raise SessionError(
                    f"the decoder at {self._address} acknowledged nothing for {patience_s:g} s; "
                    f"{self.in_flight} frames may be lost",
                    retryable=True,
                ) from None
        self._closing = True
        async with self._writing:
            await self._call.done_writing()
        try:
            async with asyncio.timeout(patience_s):
                await self.until(lambda: self._ended)
        except TimeoutError:
            self._log.warning("the decoder did not close the session; every frame is acknowledged")

    async def close(self) -> None:
        """Cancel whatever of the call still runs."""
        self._closing = True
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, request: Request) -> None:
        try:
            async with self._writing:
                await self._call.write(request)
                self._last_write_s = asyncio.get_running_loop().time()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The receiver learns why the call ended.
            await self.until(lambda: self._ended)
        except asyncio.CancelledError:
            # A read that took too long has cancelled the call, which looks here as if the task had been.
            task = asyncio.current_task()
            if self._error is None or task is None or task.cancelling():
                raise
            raise self._error from None

    async def _beat(self) -> None:
        """Send a heartbeat when nothing else was sent for half of the interval."""
        loop = asyncio.get_running_loop()
        while not self._closing:
            idle_s = loop.time() - self._last_write_s
            if idle_s >= self._interval_s / 2:
                await self._write(self._heartbeat)
                idle_s = 0.0
            await asyncio.sleep(self._interval_s / 2 - idle_s)

    async def _receive(self) -> None:
        silence_s = self._interval_s * _SILENT_INTERVALS
        try:
            while True:
                async with asyncio.timeout(silence_s):
                    response = await self._call.read()
                if response is grpc.aio.EOF:
                    break
                self._take(response)
                self._changed.set()
            if not self._closing:
                self._error = self._why()
        except TimeoutError:
            self._error = SessionError(
                f"the decoder at {self._address} was silent for {silence_s:g} s; "
                f"{self.in_flight} frames were not acknowledged",
                retryable=True,
            )
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._error = self._why()
        except SessionError as error:
            self._error = error
        finally:
            self._ended = True
            self._changed.set()

    def _take(self, response: Any) -> None:
        kind = response.WhichOneof("message")
        if kind == "ack":
            sequence = response.ack.up_to_sequence
            if sequence > self._last_sequence:
                raise SessionError(
                    f"the decoder at {self._address} acknowledged frame {sequence}, which was never "
                    f"sent; do both ends run the same release?",
                    retryable=False,
                )
            now_s = asyncio.get_running_loop().time()
            done = [number for number in self._in_flight if number <= sequence]
            times_s = [now_s - self._in_flight.pop(number).time_s for number in done]
            self._refused = {number for number in self._refused if number > sequence}
            self._credit = response.ack.credit
            self._receiver.acknowledged(sequence, times_s)
        elif kind == "error":
            error = response.error
            if error.sequence in self._in_flight and error.sequence not in self._refused:
                self._refused.add(error.sequence)
                self._receiver.failed(error.sequence, reason_name(error.reason))
            self._log.warning(
                "frame refused",
                sequence=error.sequence,
                reason=reason_name(error.reason),
                message=error.message,
            )
        elif kind == "drain":
            self.draining = True
            self.retry_after_s = response.drain.retry_after_ms / 1000
            self._log.info("the decoder shuts down", retry_after_ms=response.drain.retry_after_ms)

    def _remember_status(self, call: Call) -> None:
        # The first status is the decoder's. A write that fails after the call has ended puts INTERNAL in its
        # place (https://github.com/grpc/grpc/issues/36066), so that to ask later may be too late.
        self._status = self._status or grpc.aio.AioRpcError(
            _at_once(call.code()),
            grpc.aio.Metadata(),
            _at_once(call.trailing_metadata()),
            details=_at_once(call.details()),
        )

    def _why(self) -> SessionError:
        """Why the call has ended although the session has not."""
        lost = f"{self.in_flight} frames were not acknowledged"
        if self._status is None or self._status.code() is grpc.StatusCode.OK:
            return SessionError(
                f"the decoder at {self._address} ended the session early; {lost}", retryable=True
            )
        code, reason, message = describe(self._status)
        if reason is not None:
            return SessionError(
                f"the decoder at {self._address} ended the session: {message} ({reason})",
                retryable=is_retryable(self._status),
                reason=reason,
            )
        if code is grpc.StatusCode.UNAVAILABLE:
            return SessionError(
                f"the decoder at {self._address} is gone; {lost}", retryable=True, unavailable=True
            )
        # Without a reason of ours it comes from gRPC itself or from a proxy: a broken connection has many names.
        return SessionError(
            f"the decoder at {self._address} ended the session: {code.name}: {message}",
            retryable=code is not grpc.StatusCode.UNIMPLEMENTED,
        )


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing left to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("the call's status is not there yet")
