"""The newest frames of a rig and the side information they were decoded with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodedFrame, HeldSideInformation
from ndsc.v1.types_pb2 import Image

FRAMES_A_CAMERA: Final = 32
SIDE_FRAMES: Final = 96


@dataclass(eq=False)
class ViewedFrame:
    """A decoded frame and what was found out about it since."""

    number: int
    """Counts the frames that the viewer got, of all cameras."""
    message: DecodedFrame
    others: dict[str, Image] = field(default_factory=dict)
    """Pictures beside the decoded one, by kind: `without` and `source`."""

    @property
    def time_ns(self) -> int:
        """Capture time since the Unix epoch."""
        return self.message.capture_time.ToNanoseconds()


class Shelf:
    """Holds the last frames of each camera, and the last side information."""

    def __init__(self) -> None:
        self._count = 0
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
        return frame

    def put_side(self, side: HeldSideInformation) -> None:
        """Hold side information."""
        self._sides[side.stream, side.capture_time.ToNanoseconds()] = side.image
        if len(self._sides) > SIDE_FRAMES:
            self._sides.popitem(last=False)

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
