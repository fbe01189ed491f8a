"""Writes what a subscription brings to an MCAP file."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.timestamp_pb2 import Timestamp
from mcap_protobuf.writer import Writer

from ndsc.codec.errors import OutputError
from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodedFrame, SubscribeResponse
from ndsc.v1.types_pb2 import Image

_NAMES = {types_pb2.IMAGE_FORMAT_PNG: "png", types_pb2.IMAGE_FORMAT_JPEG: "jpeg"}


class Recorder:
    """An MCAP file that is being written. Use it in a `with`, or the file ends without its index.

    Attributes:
        counts: messages written, by topic.
        missed: frames that the server had and this recording lacks, since it was too slow.
    """

    def __init__(self, path: Path) -> None:
        """Raises OutputError when the file exists already, or cannot be made."""
        try:
            self._file = path.open("xb")
        except FileExistsError as error:
            raise OutputError(f"{path}: exists already; a recording is not written over another") from error
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        self._path = path
        self._writer = Writer(self._file)
        self.counts: Counter[str] = Counter()
        self.missed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the file with its index. Raises OutputError."""
        if self._file.closed:
            return
        try:
            self._guard(self._writer.finish)
        finally:
            self._guard(self._file.close)

    def write(self, message: SubscribeResponse) -> None:
        """Write what came. Raises OutputError."""
        match message.WhichOneof("message"):
            case "frame":
                self._frame(message.frame)
            case "side_information":
                held = message.side_information
                topic = f"/{held.rig}/{held.stream}/side_information"
                self._add(topic, _picture(held.image, held.capture_time, held.stream), held.capture_time)
            case "missed":
                self.missed += message.missed.frames

    def _frame(self, frame: DecodedFrame) -> None:
        folder = f"/{frame.rig}/{frame.camera}"
        # The picture first: whoever reads the frame then has it.
        picture = _picture(frame.image, frame.capture_time, frame.camera)
        self._add(f"{folder}/image", picture, frame.capture_time, frame.sequence)
        facts = DecodedFrame()
        facts.CopyFrom(frame)
        facts.ClearField("image")
        self._add(f"{folder}/frames", facts, frame.capture_time, frame.sequence)

    def _add(self, topic: str, message: Any, captured: Timestamp, sequence: int = 0) -> None:
        self._guard(
            self._writer.write_message,
            topic,
            message,
            log_time=time.time_ns(),
            publish_time=captured.ToNanoseconds(),
            sequence=sequence & 0xFFFFFFFF,
        )
        self.counts[topic] += 1

    def _guard(self, call: Any, *arguments: Any, **named: Any) -> None:
        try:
            call(*arguments, **named)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror or error}") from error


def _picture(image: Image, captured: Timestamp, frame_id: str) -> CompressedImage | RawImage:
    if image.format in _NAMES:
        return CompressedImage(
            timestamp=captured, frame_id=frame_id, format=_NAMES[image.format], data=image.data
        )
    return RawImage(
        timestamp=captured,
        frame_id=frame_id,
        width=image.width,
        height=image.height,
        encoding="rgb8",
        step=3 * image.width,
        data=image.data,
    )
