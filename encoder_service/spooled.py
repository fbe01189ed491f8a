"""The outbox of delivery ARCHIVE: every coded frame goes to the spool, and is sent from there until stored."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from encoder_service.account import Account
from encoder_service.capture import CaptureQueue
from encoder_service.coder import Coder
from encoder_service.frames import CallKey, Captured, Coded, Numbered
from encoder_service.outbox import alike
from encoder_service.role import Role
from encoder_service.spool import Spool
from ndsc.service.logs import RateLimitedLog
from ndsc.service.sqlite import StoreFullError

_READ_AHEAD: Final = 64
_FULL_RETRY_S: Final = 0.5

P = ParamSpec("P")
T = TypeVar("T")


class SpoolThread:
    """A spool behind a thread of its own: the disk may be slow, and the event loop must not be."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call one of the spool's methods, after those called before."""
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

    async def close(self) -> None:
        """Let go of the file once what was asked for is done."""
        await self.run(self.spool.close)
        self._thread.shutdown(wait=False)


class SpooledOutbox:
    """Complete before fresh. `fill` codes and spools; the rest sends what is there. See `Outbox`."""

    def __init__(
        self,
        queue: CaptureQueue,
        coder: Coder,
        role: Role,
        account: Account,
        spool: SpoolThread,
        *,
        lossless: bool,
        on_change: Callable[[], None],
        log: Any,
    ) -> None:
        """`lossless`: the source can wait while the spool is full."""
        self._queue = queue
        self._coder = coder
        self._role = role
        self._account = account
        self._thread = spool
        self._spool = spool.spool
        self._lossless = lossless
        self._on_change = on_change
        self._log = log
        self._warnings = RateLimitedLog(log)
        self._session_id = b""
        self._held = 0
        self._in_flight: deque[tuple[bytes, int]] = deque()
        self._ahead: deque[Numbered] = deque()
        self._position = 0
        self._filled = False
        self._reported_drops = 0
        self._appending: asyncio.Task[None] | None = None
        self._releases: list[asyncio.Task[int]] = []
        self._ended = False
        self.full = False
        """The spool takes no more frames."""

    async def begin(self) -> None:
        """Go on with the session that the spool holds, or begin one. Raises StoreError."""
        constants = self._role.session_constants(self._role.opening)
        self._session_id = await self._thread.run(self._spool.begin, constants)
        self._held = await self._thread.run(lambda: self._spool.frames)

    @property
    def session_id(self) -> bytes:
        """Of the session that frames are added to."""
        return self._session_id

    async def fill(self) -> None:
        """Code and spool frames as they are captured, until no more come. Raises StoreError."""
        try:
            while await self._queue.wait():
                captured = self._queue.take()
                if captured is None:
                    continue
                coded = await self._coder.code(captured, behind=self._unsent > 0)
                if coded is not None:
                    # To the end, even when the node ends meanwhile: what is on disk must be counted.
                    self._appending = asyncio.create_task(self._append(captured, coded))
                    await asyncio.shield(self._appending)
        finally:
            self._filled = True
            self._on_change()

    async def _append(self, captured: Captured, coded: Coded) -> None:
        drops = self._account.drops.total()
        dropped_before = drops - self._reported_drops
        while True:
            try:
                sequence = await self._thread.run(
                    self._spool.append,
                    coded.data,
                    opening=coded.opening,
                    capture_time_us=coded.capture_time_us,
                    rate_level=coded.rate_level,
                    dropped_before=dropped_before,
                )
                break
            except StoreFullError as error:
                self.full = True
                self._account.event("spool_full")
                self._warnings.warning("spool full", error=str(error), frames=self._held)
                if not self._lossless or self._queue.ended:
                    self._account.drop("spool_full")
                    return
                await asyncio.sleep(_FULL_RETRY_S)
        if self.full:
            self.full = False
            self._log.info("the spool has room again", frames=self._held)
        self._reported_drops = drops
        self._held += 1
        self._account.number(
            Numbered(
                key=CallKey(self._session_id, coded.opening),
                sequence=sequence,
                capture_time_us=coded.capture_time_us,
                rate_level=coded.rate_level,
                data=coded.data,
                dropped_before=dropped_before,
                at_s=captured.at_s,
            )
        )
        self._on_change()

    @property
    def ready(self) -> bool:
        """Whether a spooled frame is not in flight."""
        return self._unsent > 0

    @property
    def exhausted(self) -> bool:
        """Every frame of the spool is in flight, and no more will come."""
        return self._filled and not self._unsent

    @property
    def _unsent(self) -> int:
        """Frames in the spool that are not in flight; some may have been before."""
        return self._held - len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Frames captured that were not sent in this run of the node."""
        return self._held - self._account.in_flight + self._queue.frames

    @property
    def held(self) -> int:
        """Frames in the spool."""
        return self._held

    @property
    def held_bytes(self) -> int:
        """Bytes that the spool takes of its capacity; asks the disk."""
        return self._spool.used_bytes

    async def next_key(self) -> CallKey:
        """That of the oldest frame that is not in flight, else of frames coded now."""
        await self._read()
        return self._ahead[0].key if self._ahead else CallKey(self._session_id, self._role.opening)

    async def first_unacknowledged(self, key: CallKey) -> int:
        """Lowest sequence of that session in the spool or, when there is none, its next one."""
        await self.settle()
        return await self._thread.run(self._spool.first_unacknowledged, key.session_id)

    def epoch_us(self) -> int:
        """Capture time of the next frame, or of the source's start."""
        return self._ahead[0].capture_time_us if self._ahead else self._coder.epoch_us

    async def resume(self, key: CallKey, next_sequence: int, *, resumed: bool) -> None:
        """What the decoder has stored goes; the rest is sent, again where it has been sent before."""
        await self.settle()
        gone = await self._forget(key.session_id, next_sequence - 1)
        self._account.acknowledge(key.session_id, next_sequence - 1, gone)
        self._held -= gone
        self._restart()

    async def prepare(self, most: int) -> Sequence[Numbered]:
        """The oldest frames that are not in flight."""
        await self._read()
        return alike(self._ahead, most)

    def sent(self, frames: Sequence[Numbered]) -> None:
        """These frames are in flight."""
        for frame in frames:
            self._ahead.popleft()
            self._in_flight.append((frame.key.session_id, frame.sequence))

    def acknowledged(self, key: CallKey, up_to_sequence: int) -> None:
        """Frames up to a sequence are stored by the decoder: the spool lets go of them."""
        done = 0
        while self._in_flight and self._in_flight[0][1] <= up_to_sequence:
            self._in_flight.popleft()
            done += 1
        self._held -= done
        self._account.acknowledge(key.session_id, up_to_sequence, done)
        self._releases.append(asyncio.create_task(self._forget(key.session_id, up_to_sequence)))

    def give_up(self, frames: Sequence[Numbered]) -> bool:
        """Never: they stay in the spool."""
        return False

    def disconnected(self) -> None:
        """What is in flight will be sent again, from the start of the spool."""
        self._restart()

    async def end(self) -> None:
        """The node ends; what was not acknowledged stays in the spool for its next run."""
        self._ended = True
        tasks = [*self._releases] if self._appending is None else [*self._releases, self._appending]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Wait until the disk has let go of what was acknowledged. Raises StoreError."""
        releases, self._releases = self._releases, []
        await asyncio.gather(*releases)

    def _restart(self) -> None:
        self._ahead.clear()
        self._in_flight.clear()
        self._position = 0

    async def _read(self) -> None:
        if self._ahead or not self.waiting:
            return
        await self.settle()  # what is acknowledged must not be read again
        for frame in await self._thread.run(self._spool.read, self._position, _READ_AHEAD):
            self._ahead.append(
                Numbered(
                    key=CallKey(frame.session_id, frame.opening),
                    sequence=frame.sequence,
                    capture_time_us=frame.capture_time_us,
                    rate_level=frame.rate_level,
                    data=frame.data,
                    dropped_before=frame.dropped_before,
                    at_s=0.0,
                )
            )
            self._position = frame.position

    async def _forget(self, session_id: bytes, up_to_sequence: int) -> int:
        """Let go of acknowledged frames, once the disk has room for that; returns how many went."""
        while True:
            try:
                return await self._thread.run(self._spool.acknowledge, session_id, up_to_sequence)
            except StoreFullError as error:
                self._warnings.warning("spool full", error=str(error), frames=self._held)
                if self._ended:  # they stay, and are acknowledged again in the next run
                    return 0
                await asyncio.sleep(_FULL_RETRY_S)
