"""Decodes a recording again: by bundles in this process, or by a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.errors import BitstreamMismatchError
from ndsc.codec.frames import Frame
from ndsc.codec.runtime import RuntimeOptions
from ndsc.recording.errors import RecordingError
from ndsc.recording.reader import RecordedFrame, lossless, pixels

Decode = Callable[[CompressedFrame, Frame | None], tuple[Frame, str]]
"""(compressed frame, y) → picture, and the bundle id of what decoded it, hexadecimal."""

Comparison = Literal["same decoder", "another decoder", "no picture", "no side information"]
"""`no picture`: none was recorded, or as JPEG; `no side information`: it was decoded with some that the recording
lacks. Then there is nothing to compare with."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """A frame, decoded again."""

    recorded: RecordedFrame
    image: Frame
    comparison: Comparison
    difference: int | None
    """Grey levels, the largest of the picture; None where there is nothing to compare with."""


@dataclass
class Tally:
    """What a replay came to."""

    frames: int = 0
    compared: int = 0
    """With pictures of the same decoder; the following are of these."""
    exact: int = 0
    largest_difference: int = 0
    """Grey levels."""
    another_decoder: int = 0
    without_picture: int = 0
    """Frames whose picture the recording lacks, or has as JPEG."""
    without_side_information: int = 0
    """Frames whose side information the recording lacks."""

    def add(self, replayed: Replayed) -> None:
        """Count a frame."""
        self.frames += 1
        match replayed.comparison:
            case "another decoder":
                self.another_decoder += 1
            case "no picture":
                self.without_picture += 1
            case "no side information":
                self.without_side_information += 1
            case "same decoder":
                assert replayed.difference is not None  # noqa: S101 - narrows the type
                self.compared += 1
                self.exact += replayed.difference == 0
                self.largest_difference = max(self.largest_difference, replayed.difference)


def by_bundles(bundles: Sequence[Bundle], options: RuntimeOptions | None = None) -> Decode:
    """Decode in this process, one frame at a time. Raises BitstreamMismatchError for frames of other bundles."""
    decoders = {bundle.bitstream_id: FrameDecoder(bundle, options or RuntimeOptions()) for bundle in bundles}

    def decode(frame: CompressedFrame, side_information: Frame | None) -> tuple[Frame, str]:
        decoder = decoders.get(frame.bitstream_id)
        if decoder is None:
            raise BitstreamMismatchError(
                f"the recording has frames of bitstream {frame.bitstream_id.hex()}; give its bundle with --bundle"
            )
        return decoder.decode(frame, side_information), decoder.bundle.bundle_id

    return decode


def _difference(one: Frame, other: Frame) -> int:
    """Grey levels. Raises RecordingError for pictures of two sizes."""
    if one.shape != other.shape:
        raise RecordingError(
            f"a picture of {list(other.shape)} was recorded for a frame of {list(one.shape)}"
        )
    return int(np.abs(one.astype(np.int16) - other).max())


def replay(frames: Iterator[RecordedFrame], decode: Decode) -> Iterator[Replayed]:
    """Decode frames again, with the side information they were decoded with.

    Raises what `decode` raises, and PayloadCorruptError where a payload does not give the indices it was made of.
    """
    for recorded in frames:
        message = recorded.facts.compressed
        size = message.geometry
        frame = CompressedFrame(
            message.bitstream_id, message.rate_level, size.width, size.height, message.payload
        )
        side = None if recorded.side_information is None else pixels(recorded.side_information)
        image, bundle_id = decode(frame, side)
        comparison: Comparison = "same decoder"
        difference = None
        if recorded.wanted_side_information and side is None:
            comparison = "no side information"
        elif recorded.picture is None or not lossless(recorded.picture):
            comparison = "no picture"
        elif bundle_id != recorded.facts.bundle_id.hex():
            comparison = "another decoder"
        else:
            difference = _difference(image, pixels(recorded.picture))
        yield Replayed(recorded, image, comparison, difference)
