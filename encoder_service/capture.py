"""The capture thread and its hand-over to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from ndsc.sources import Source, SourceFrame


class CaptureQueue:
    """A few frames between the thread that captures and the event loop that codes and sends.

    When it is full, a lossless queue makes the capture thread wait; else the oldest frame gives way and is
    counted as dropped. Make it inside the running event loop, which calls `on_end` once no more frames come.
    """

    def __init__(self, capacity: int, *, lossless: bool, on_end: Callable[[], None]) -> None:
        self._capacity = capacity
        self._lossless = lossless
        self._on_end = on_end
        self._frames: deque[SourceFrame] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self.ended = False
        """No more frames come; some may still wait."""
        self.captured = 0
        """Frames put in."""
        self.dropped = 0
        """Of those, how many were never taken out: a newer one or the end came first."""

    @property
    def empty(self) -> bool:
        """Whether no frame waits."""
        return not self._frames

    def put(self, frame: SourceFrame) -> bool:
        """Add a frame, from the capture thread; a lossless queue waits for room. False: none is wanted."""
        with self._changed:
            while self._lossless and len(self._frames) == self._capacity and not self.ended:
                self._changed.wait()
            if self.ended:
                return False
            self.captured += 1
            if len(self._frames) == self._capacity:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append(frame)
        self._tell(self._ready.set)
        return True

    def end(self, error: BaseException | None = None, *, discard: bool = False) -> None:
        """Take no more frames, from any thread; those that wait stay unless they are discarded.

        `wait` raises the first call's `error` once the last frame is taken.
        """
        with self._changed:
            if not self.ended:
                self.ended = True
                self._error = error
            if discard:
                self.dropped += len(self._frames)
                self._frames.clear()
            self._changed.notify_all()
        self._tell(self._ready.set)
        self._tell(self._on_end)

    async def wait(self) -> bool:
        """Wait for a frame. False: no more come. Raises the error that ended the capture."""
        while not self._frames:
            if self.ended:
                if self._error is not None:
                    raise self._error
                return False
            self._ready.clear()
            # What came before `clear` is seen here; what comes later sets the event again.
            if not self._frames and not self.ended:
                await self._ready.wait()
        return True

    def take(self) -> SourceFrame | None:
        """The oldest frame; None when none waits."""
        with self._changed:
            if not self._frames:
                return None
            self._changed.notify_all()
            return self._frames.popleft()

    def _tell(self, callback: Callable[[], None]) -> None:
        # A capture thread that is slow to end may outlive the event loop.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)


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
