"""The newest frames of a rig and the side information they were decoded with, bounded in bytes."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodedFrame, HeldSideInformation
from ndsc.v1.types_pb2 import Image

FRAMES_A_CAMERA: Final = 32
SIDE_FRAMES: Final = 96
CAPACITY_BYTES: Final = 256 << 20
"""Of all pictures; the oldest go first."""


@dataclass(eq=False)
class ViewedFrame:
    """A decoded frame and what was found out about it since."""

    number: int
    """Names the frame; a viewer that starts later goes on with larger ones."""
    message: DecodedFrame
    others: dict[str, asyncio.Task[Image | None]] = field(default_factory=dict)
    """Pictures beside the decoded one that were asked for, by kind: each is had once."""

    @property
    def time_ns(self) -> int:
        """Capture time since the Unix epoch."""
        return self.message.capture_time.ToNanoseconds()

    @property
    def held_bytes(self) -> int:
        """Of its pictures."""
        total = len(self.message.image.data)
        for task in self.others.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                image = task.result()
                total += len(image.data) if image is not None else 0
        return total


class Shelf:
    """Holds the last frames of each camera, and the last side information. Belongs to the event loop."""

    def __init__(self) -> None:
        # Browsers keep pictures by their number, so no later process may use one again.
        self._count = time.time_ns() // 1_000_000
        self._frames: dict[str, OrderedDict[int, ViewedFrame]] = {}
        self._sides: OrderedDict[tuple[str, int], Image] = OrderedDict()

    def put(self, message: DecodedFrame) -> ViewedFrame:
        """Hold a frame."""
        self._count += 1
        frame = ViewedFrame(self._count, message)
        held = self._frames.setdefault(message.camera, OrderedDict())
        held[frame.number] = frame
        if len(held) > FRAMES_A_CAMERA:
            held.popitem(last=False)
        self._make_room()
        return frame

    def put_side(self, side: HeldSideInformation) -> None:
        """Hold side information."""
        self._sides[side.stream, side.capture_time.ToNanoseconds()] = side.image
        if len(self._sides) > SIDE_FRAMES:
            self._sides.popitem(last=False)
        self._make_room()

    def get(self, camera: str, number: int) -> ViewedFrame | None:
        """A frame that is still held."""
        held = self._frames.get(camera)
        return None if held is None else held.get(number)

    def newest(self) -> Iterable[ViewedFrame]:
        """The newest frame of each camera."""
        return [next(reversed(held.values())) for held in self._frames.values()]

    def side_of(self, frame: ViewedFrame) -> Image | None:
        """What a frame was decoded with; None when nothing was, or it is not held any more."""
        use = frame.message.side_information
        if use.outcome != types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED:
            return None
        at = use.capture_time.ToNanoseconds()
        image = self._sides.get((use.stream, at))
        if image is not None:
            return image
        # A camera whose decoded frames serve.
        others = self._frames.get(use.stream)
        if others is None:
            return None
        return next((other.message.image for other in others.values() if other.time_ns == at), None)

    def _make_room(self) -> None:
        """Let go of the oldest frames, but each camera's newest, and then of side information."""
        while self._held_bytes() > CAPACITY_BYTES:
            spare = [held for held in self._frames.values() if len(held) > 1]
            if spare:
                min(spare, key=lambda held: next(iter(held))).popitem(last=False)
            elif self._sides:
                self._sides.popitem(last=False)
            else:
                return

    def _held_bytes(self) -> int:
        frames = sum(frame.held_bytes for held in self._frames.values() for frame in held.values())
        return frames + sum(len(image.data) for image in self._sides.values())
