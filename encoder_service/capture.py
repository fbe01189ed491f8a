"""The capture thread and its hand-over to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

from encoder_service.account import Account
from encoder_service.frames import Captured
from ndsc.sources import Source, SourceFrame


class CaptureQueue:
    """A few frames between the thread that captures and the event loop that codes and sends.

    When it is full, a lossless queue makes the capture thread wait; else the oldest frame gives way and is
    counted as dropped. Make it inside the running event loop, which calls `on_change` when a frame has come and
    when no more will.
    """

    def __init__(
        self, capacity: int, account: Account, *, lossless: bool, on_change: Callable[[], None]
    ) -> None:
        self._capacity = capacity
        self._account = account
        self._lossless = lossless
        self._on_change = on_change
        self._frames: deque[Captured] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._ordinal = 0
        self.ended = False
        """No more frames come; some may still wait."""

    @property
    def frames(self) -> int:
        """Frames that wait."""
        return len(self._frames)

    @property
    def next_capture_time_us(self) -> int | None:
        """Capture time of the oldest frame that waits."""
        with self._changed:
            return self._frames[0].frame.capture_time_us if self._frames else None

    @property
    def error(self) -> BaseException | None:
        """What ended the capture, if it was an error."""
        return self._error

    def put(self, frame: SourceFrame) -> bool:
        """Add a frame, from the capture thread; a lossless queue waits for room. False: none is wanted."""
        with self._changed:
            while self._lossless and len(self._frames) == self._capacity and not self.ended:
                self._changed.wait()
            if self.ended:
                return False
            self._ordinal += 1
            captured = Captured(frame, self._ordinal, time.monotonic())
            self._account.capture(captured)
            if len(self._frames) == self._capacity:
                self._frames.popleft()
                self._account.drop("queue")
            self._frames.append(captured)
        self._tell()
        return True

    def end(self, error: BaseException | None = None, *, discard: bool = False) -> None:
        """Take no more frames, from any thread; those that wait stay unless they are discarded.

        The first call's `error` is kept.
        """
        with self._changed:
            if not self.ended:
                self.ended = True
                self._error = error
            if discard:
                self._account.drop("stop", len(self._frames))
                self._frames.clear()
            self._changed.notify_all()
        self._tell()

    async def wait(self) -> bool:
        """Wait for a frame. False: no more come."""
        while not self._frames:
            if self.ended:
                return False
            self._ready.clear()
            # What came before `clear` is seen here; what comes later sets the event again.
            if not self._frames and not self.ended:
                await self._ready.wait()
        return True

    def take(self) -> Captured | None:
        """The oldest frame; None when none waits."""
        with self._changed:
            if not self._frames:
                return None
            self._changed.notify_all()
            return self._frames.popleft()

    def _tell(self) -> None:
        # A capture thread that is slow to end may outlive the event loop.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed_on_loop)

    def _changed_on_loop(self) -> None:
        self._ready.set()
        self._on_change()


def start_capture(source: Source, queue: CaptureQueue) -> None:
    """Feed the frames of `source` to `queue` in a thread of its own until either ends."""

    def capture() -> None:
        try:
            for frame in source:
                if not queue.put(frame):
                    return
        except BaseException as error:
            queue.end(error)
        else:
            queue.end()

    # A driver may hold the thread in a read that nothing interrupts; it must not hold the process too.
    threading.Thread(target=capture, name="capture", daemon=True).start()
