"""Reads a recording: frames, each with its picture and the side information that it was decoded with."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.message import DecodeError
from mcap.exceptions import EndOfFile, McapError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader

from ndsc.codec.frames import Frame, decode_image
from ndsc.recording.errors import RecordingError
from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodedFrame

Image = CompressedImage | RawImage

MAX_RECORD_BYTES: Final = 1 << 28


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
    """A recording, read from its beginning. Iterate it once.

    Attributes:
        cut_short: after the last frame: the file has no end, as one that a crash left; all that is in it was read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cut_short = False

    def __iter__(self) -> Iterator[RecordedFrame]:
        """Frames in the order in which they were recorded. Raises RecordingError."""
        try:
            with self._path.open("rb") as file, _Images() as self._images:
                yield from self._frames(file)
        except OSError as error:
            raise RecordingError(f"{self._path}: cannot be read: {error.strerror or error}") from error

    def _frames(self, file: io.BufferedReader) -> Iterator[RecordedFrame]:
        schemas: dict[int, str] = {}
        channels: dict[int, tuple[str, str]] = {}
        records = StreamReader(file, validate_crcs=True, record_size_limit=MAX_RECORD_BYTES).records
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except EndOfFile:
                if not channels:
                    raise RecordingError(
                        f"{self._path}: no recording, or cut off before its first frame"
                    ) from None
                self.cut_short = True
                return
            except (McapError, ValueError) as error:
                raise RecordingError(f"{self._path}: no sound MCAP file: {error}") from error
            match record:
                case Schema():
                    schemas[record.id] = record.name
                case Channel():
                    channels[record.id] = (record.topic, schemas.get(record.schema_id, ""))
                case Message():
                    frame = self._message(record, *channels.get(record.channel_id, ("", "")))
                    if frame is not None:
                        yield frame

    def _message(self, message: Message, topic: str, schema: str) -> RecordedFrame | None:
        try:
            match schema:
                case "foxglove.CompressedImage":
                    self._images.put(topic, CompressedImage.FromString(message.data))
                case "foxglove.RawImage":
                    self._images.put(topic, RawImage.FromString(message.data))
                case "ndsc.v1.DecodedFrame":
                    return self._frame(DecodedFrame.FromString(message.data))
        except DecodeError as error:
            raise RecordingError(f"{self._path}: a message of {topic} cannot be read") from error
        return None

    def _frame(self, facts: DecodedFrame) -> RecordedFrame:
        images = self._images
        picture = images.get(f"/{facts.rig}/{facts.camera}/image", facts.capture_time.ToNanoseconds())
        use = facts.side_information
        served = None
        if use.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED:
            at, stream = use.capture_time.ToNanoseconds(), f"/{facts.rig}/{use.stream}"
            served = images.get(f"{stream}/side_information", at) or images.get(f"{stream}/image", at)
        return RecordedFrame(facts, picture, served)


class _Images:
    """All images so far, in a temporary file: a frame may come hours after its side information (ARCHIVE)."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._places: dict[tuple[str, int], tuple[type[Image], int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, topic: str, image: Image) -> None:
        """Keep an image under its time; the last one of a time counts."""
        data = image.SerializeToString()
        start = self._file.seek(0, io.SEEK_END)
        self._file.write(data)
        self._places[topic, image.timestamp.ToNanoseconds()] = (type(image), start, len(data))

    def get(self, topic: str, time_ns: int) -> Image | None:
        """The image of a topic and time."""
        place = self._places.get((topic, time_ns))
        if place is None:
            return None
        kind, start, size = place
        self._file.seek(start)
        return kind.FromString(self._file.read(size))


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
