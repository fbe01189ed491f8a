"""The capture thread and its hand-over to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque

from ndsc.sources import Source, SourceFrame


class CaptureQueue:
    """A few frames between the thread that captures and the event loop that codes and sends.

    When it is full, a lossless queue makes the capture thread wait; else the oldest frame gives way and is counted
    as dropped. Make it inside the running event loop.
    """

    def __init__(self, capacity: int, *, lossless: bool) -> None:
        self._capacity = capacity
        self._lossless = lossless
        self._frames: deque[SourceFrame] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self.captured = 0
        """Frames put in."""
        self.dropped = 0
        """Of those, how many were never taken out because a newer one or the end came first."""

    def put(self, frame: SourceFrame) -> bool:
        """Add a frame, from the capture thread; a lossless queue waits for room. False: no more are wanted."""
        with self._changed:
            while self._lossless and len(self._frames) == self._capacity and not self._ended:
                self._changed.wait()
            if self._ended:
                return False
            self.captured += 1
            if len(self._frames) == self._capacity:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append(frame)
        self._wake()
        return True

    def end(self, error: BaseException | None = None, *, discard: bool = False) -> None:
        """No more frames come, from any thread; `take` gives the waiting ones unless they are discarded.

        Only the first call's `error` counts; `take` raises it after the last frame.
        """
        with self._changed:
            if not self._ended:
                self._ended = True
                self._error = error
            if discard:
                self.dropped += len(self._frames)
                self._frames.clear()
            self._changed.notify_all()
        self._wake()

    async def take(self) -> SourceFrame | None:
        """The oldest frame; None after the last one. Raises the error that ended the capture."""
        while True:
            with self._changed:
                if self._frames:
                    frame = self._frames.popleft()
                    self._changed.notify_all()
                    return frame
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return None
                self._ready.clear()
            await self._ready.wait()

    def _wake(self) -> None:
        # A capture thread that is slow to end may outlive the event loop.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ready.set)


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
