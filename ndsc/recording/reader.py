"""Reads a recording: frames, each with its picture and the side information that it was decoded with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.message import DecodeError
from mcap.records import Channel, Schema

from ndsc.codec.frames import Frame, decode_image
from ndsc.recording.errors import RecordingError
from ndsc.recording.file import Place, RecordFile
from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodedFrame

Image = CompressedImage | RawImage

_IMAGES: dict[str, type[Image]] = {
    "foxglove.CompressedImage": CompressedImage,
    "foxglove.RawImage": RawImage,
}


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """A frame of the recording."""

    facts: DecodedFrame
    """All that the server said of it, the compressed frame included; no image."""
    picture: Image | None
    """What the server decoded; None where the recording lacks it."""
    side_information: Image | None
    """What it was decoded with; None where there was none, or the recording lacks it."""

    @property
    def wanted_side_information(self) -> bool:
        """Whether it was decoded with any."""
        return self.facts.side_information.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED


class Recording:
    """A recording, read from its beginning.

    Attributes:
        cut_short: after the last frame: the file has no end, as one that a crash left; all that is in it was read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cut_short = False

    def __iter__(self) -> Iterator[RecordedFrame]:
        """Frames in the order in which they were recorded. Raises RecordingError, also when there is none."""
        with RecordFile(self._path) as file:
            found = False
            for frame in _Reader(self._path, file).frames():
                found = True
                yield frame
            self.cut_short = file.cut_short
            if not found:
                raise RecordingError(f"{self._path}: holds no frame that `ndsc record` wrote")


class _Reader:
    """Finds images again by topic and time: a frame may come hours after its side information (ARCHIVE)."""

    def __init__(self, path: Path, file: RecordFile) -> None:
        self._path = path
        self._file = file
        self._places: dict[tuple[str, int], tuple[type[Image], Place]] = {}

    def frames(self) -> Iterator[RecordedFrame]:
        """All frames."""
        schemas: dict[int, str] = {}
        channels: dict[int, tuple[str, str]] = {}
        for place, record in self._file:
            if isinstance(record, Schema):
                schemas[record.id] = record.name
            elif isinstance(record, Channel):
                channels[record.id] = (record.topic, schemas.get(record.schema_id, ""))
            else:
                topic, schema = channels.get(record.channel_id, ("", ""))
                try:
                    if schema in _IMAGES:
                        kind = _IMAGES[schema]
                        time_ns = kind.FromString(record.data).timestamp.ToNanoseconds()
                        self._places[topic, time_ns] = (kind, place)
                    elif schema == "ndsc.v1.DecodedFrame":
                        yield self._frame(DecodedFrame.FromString(record.data))
                except (DecodeError, ValueError) as error:
                    raise RecordingError(f"{self._path}: a message of {topic} cannot be read") from error

    def _frame(self, facts: DecodedFrame) -> RecordedFrame:
        time_ns = facts.capture_time.ToNanoseconds()
        picture = self._image(f"/{facts.rig}/{facts.camera}/image", time_ns)
        use = facts.side_information
        served = None
        if use.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED:
            at, stream = use.capture_time.ToNanoseconds(), f"/{facts.rig}/{use.stream}"
            served = self._image(f"{stream}/side_information", at)
            if served is None:
                # Another camera, whose decoded frames serve; what JPEG made of them is not what served.
                decoded = self._image(f"{stream}/image", at)
                served = decoded if decoded is not None and lossless(decoded) else None
        return RecordedFrame(facts, picture, served)

    def _image(self, topic: str, time_ns: int) -> Image | None:
        found = self._places.get((topic, time_ns))
        if found is None:
            return None
        kind, place = found
        return kind.FromString(self._file.message(place).data)


def lossless(image: Image) -> bool:
    """Whether `pixels` gives what was decoded."""
    return isinstance(image, RawImage) or image.format == "png"


def pixels(image: Image) -> Frame:
    """uint8 [height, width, 3]. Raises ImageError, and RecordingError for a raw image that is not RGB."""
    if isinstance(image, CompressedImage):
        return decode_image(image.data)
    if image.encoding != "rgb8" or len(image.data) != 3 * image.width * image.height:
        raise RecordingError(f"a raw image of encoding {image.encoding!r} is not RGB of its size")
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
