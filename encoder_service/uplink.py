"""One session with a decoder: open, credit, acknowledgements, errors of single frames, heartbeats.

Camera sessions and side-information streams differ in their messages alone, so one class serves both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog

from ndsc.codec.errors import NdscError
from ndsc.service.errors import describe, reason_name
from ndsc.v1.frame_stream_pb2 import StreamFramesRequest, StreamFramesResponse
from ndsc.v1.side_information_pb2 import StreamSideInformationRequest, StreamSideInformationResponse
from ndsc.v1.types_pb2 import Credit

Request: TypeAlias = StreamFramesRequest | StreamSideInformationRequest
Response: TypeAlias = StreamFramesResponse | StreamSideInformationResponse
Call: TypeAlias = grpc.aio.StreamStreamCall[Any, Any]

T = TypeVar("T")

_DEFAULT_HEARTBEAT_MS: Final = 2_000
_SILENT_INTERVALS: Final = 3


class SessionError(NdscError):
    """The decoder is not there, refused the session, or broke it off."""


class TooLargeError(NdscError):
    """A frame that no credit of this decoder will ever cover."""


class Uplink:
    """A session on an open call. Frames are numbered in the order they are sent.

    `sent` = `acked` + in flight; `acked` includes the `failed` ones, which the decoder reported as errors.
    """

    def __init__(
        self,
        call: Call,
        *,
        heartbeat: Request,
        address: str,
        on_end: Callable[[], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._call = call
        self._heartbeat = heartbeat
        self._address = address
        self._on_end = on_end
        self._log = log
        self._credit = Credit()
        self._in_flight: dict[int, int] = {}
        self._refused: set[int] = set()
        self._interval_s = _DEFAULT_HEARTBEAT_MS / 1000
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._last_write_s = 0.0
        self._closing = False
        self._ended = False
        self._error: SessionError | None = None
        self._status: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._remember_status)
        self._tasks: list[asyncio.Task[None]] = []
        self.next_sequence = 1
        """Number of the next frame."""
        self.draining = False
        """The decoder is about to shut down and takes no more frames."""
        self.sent = 0
        self.acked = 0
        self.failed = 0

    @property
    def in_flight(self) -> int:
        """Frames sent and not acknowledged yet."""
        return len(self._in_flight)

    async def open(self, request: Request, timeout_s: float) -> None:
        """Send `request`, the session's `open`, and wait for `opened`. Raises SessionError."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._call.write(request)
                response = await self._call.read()
        except TimeoutError:
            raise SessionError(
                f"the decoder at {self._address} did not open the session within {timeout_s:g} s; "
                f"check that a decoder listens there"
            ) from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self._why() from error
        if not isinstance(response, Response) or response.WhichOneof("message") != "opened":
            raise SessionError(f"the decoder at {self._address} did not answer as the contract says")
        opened = response.opened
        if isinstance(response, StreamFramesResponse):
            self.next_sequence = response.opened.next_sequence or 1
        self._credit = opened.credit
        self._interval_s = (opened.heartbeat_interval_ms or _DEFAULT_HEARTBEAT_MS) / 1000
        self._last_write_s = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._beat())]

    async def wait_for_credit(self, payload_bytes: int, *, unless: Callable[[], bool]) -> bool:
        """Wait until the credit covers a frame. False: the decoder drains, or `unless` holds (see `wake`).

        Raises SessionError, and TooLargeError when the decoder gives credit for no frame of this size.
        """
        await self._until(lambda: self.draining or self._covers(payload_bytes) or unless())
        return not self.draining and self._covers(payload_bytes)

    def wake(self) -> None:
        """Look again at what `wait_for_credit` waits for."""
        self._changed.set()

    async def send(self, request: Request, payload_bytes: int) -> None:
        """Send frame `next_sequence`, which the credit covers. Raises SessionError."""
        self._in_flight[self.next_sequence] = payload_bytes
        self.sent += 1
        self.next_sequence += 1
        await self._write(request)

    async def finish(self, patience_s: float) -> None:
        """Wait for all acknowledgements, then end the call.

        Raises SessionError when the decoder breaks off or acknowledges nothing for `patience_s`.
        """
        while self._in_flight:
            before = self.acked
            try:
                async with asyncio.timeout(patience_s):
                    await self._until(lambda: self.acked > before)  # noqa: B023 (awaited within the iteration)
            except TimeoutError:
                raise SessionError(
                    f"the decoder at {self._address} acknowledged nothing for {patience_s:g} s; "
                    f"{self.in_flight} frames may be lost"
                ) from None
        self._closing = True
        async with self._writing:
            await self._call.done_writing()
        try:
            async with asyncio.timeout(patience_s):
                await self._until(lambda: self._ended)
        except TimeoutError:
            self._log.warning("the decoder did not close the session; every frame is acknowledged")

    async def close(self) -> None:
        """Cancel whatever of the call still runs."""
        self._closing = True
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _covers(self, payload_bytes: int) -> bool:
        credit = self._credit
        if len(self._in_flight) >= credit.max_frames:
            return False
        if not self._in_flight and 0 < credit.max_bytes < payload_bytes:
            raise TooLargeError(
                f"a frame of {payload_bytes} bytes is beyond the {credit.max_bytes} bytes that the decoder "
                f"at {self._address} takes; use a lower rate or smaller frames"
            )
        return sum(self._in_flight.values()) + payload_bytes <= credit.max_bytes

    async def _until(self, condition: Callable[[], bool]) -> None:
        while True:
            if self._error is not None:
                raise self._error
            if condition():
                return
            self._changed.clear()
            await self._changed.wait()

    async def _write(self, request: Request) -> None:
        try:
            async with self._writing:
                await self._call.write(request)
                self._last_write_s = asyncio.get_running_loop().time()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The receiver learns why the call ended.
            await self._until(lambda: self._ended)

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
                f"{self.in_flight} frames were not acknowledged"
            )
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._error = self._why()
        except SessionError as error:
            self._error = error
        finally:
            self._ended = True
            self._changed.set()
            self._on_end()

    def _take(self, response: Any) -> None:
        kind = response.WhichOneof("message")
        if kind == "ack":
            sequence = response.ack.up_to_sequence
            if sequence >= self.next_sequence:
                raise SessionError(
                    f"the decoder at {self._address} acknowledged frame {sequence}, which was never "
                    f"sent; do both ends run the same release?"
                )
            for done in [number for number in self._in_flight if number <= sequence]:
                del self._in_flight[done]
                self.acked += 1
            self._refused = {number for number in self._refused if number > sequence}
            self._credit = response.ack.credit
        elif kind == "error":
            error = response.error
            if error.sequence in self._in_flight and error.sequence not in self._refused:
                self._refused.add(error.sequence)
                self.failed += 1
            self._log.warning(
                "frame refused",
                sequence=error.sequence,
                reason=reason_name(error.reason),
                message=error.message,
            )
        elif kind == "drain":
            self.draining = True
            self._log.info("the decoder shuts down", retry_after_ms=response.drain.retry_after_ms)
            self._on_end()

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
            return SessionError(f"the decoder at {self._address} ended the session early; {lost}")
        code, reason, message = describe(self._status)
        if reason is not None:
            return SessionError(f"the decoder at {self._address} ended the session: {message} ({reason})")
        if code is grpc.StatusCode.UNAVAILABLE:
            return SessionError(
                f"the decoder at {self._address} is gone; {lost}; start it again, then this node"
            )
        return SessionError(f"the decoder at {self._address} ended the session: {code.name}: {message}")


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing left to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("the call's status is not there yet")
