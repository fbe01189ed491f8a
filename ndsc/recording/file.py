"""The records of an MCAP file in order, and again by their place; a damaged file gives one clear error.

The mcap package's own readers want the index at the file's end, which a crash leaves out, and raise whatever they
stumble over. Here lengths are checked against the file before anything is read, and sizes before it is unpacked.
"""

from __future__ import annotations

import io
import struct
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, McapRecord, Message, Schema
from mcap.stream_reader import breakup_chunk
from zstandard import ZstdError

from ndsc.recording.errors import RecordingError

MAX_RECORD_BYTES: Final = 1 << 28
"""Of a record, and of what a chunk unpacks to."""
KEPT_RECORDS: Final = 8
"""Chunks that stay unpacked: images mostly serve frames that come soon after them."""

_MAGIC: Final = b"\x89MCAP0\r\n"
_HEADER: Final = struct.Struct("<BQ")


class Place(NamedTuple):
    """Where a schema, channel or message lies."""

    position: int
    """Of its record, a chunk mostly, in bytes."""
    number: int
    """Which one in that record."""


class RecordFile:
    """An MCAP file. Use it in a `with`.

    Attributes:
        cut_short: after the last record: the file has no end, as one that a crash left.
    """

    def __init__(self, path: Path) -> None:
        """Raises RecordingError."""
        self._path = path
        self.cut_short = False
        try:
            self._file = path.open("rb")
            self._size = self._file.seek(0, io.SEEK_END)
            self._file.seek(0)
            magic = self._file.read(len(_MAGIC))
        except OSError as error:
            raise self._unreadable(error) from error
        if magic != _MAGIC:
            self._file.close()
            raise RecordingError(f"{path}: no MCAP file")
        self._kept: OrderedDict[int, list[McapRecord]] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[Place, Schema | Channel | Message]]:
        """All schemas, channels and messages in order. Raises RecordingError."""
        position = len(_MAGIC)
        while True:
            header = self._read(position, _HEADER.size)
            if len(header) < _HEADER.size:
                self.cut_short = True
                return
            opcode, length = _HEADER.unpack(header)
            if opcode == Opcode.FOOTER:
                return
            following = position + _HEADER.size + length
            if following > self._size:
                self.cut_short = True
                return
            for number, record in enumerate(self._records(position)):
                if isinstance(record, Schema | Channel | Message):
                    yield Place(position, number), record
            position = following

    def message(self, place: Place) -> Message:
        """A message that was read before. Raises RecordingError."""
        record = self._records(place.position)[place.number]
        if not isinstance(record, Message):  # the file was written to meanwhile
            raise RecordingError(f"{self._path}: changed while it was read")
        return record

    def _records(self, position: int) -> list[McapRecord]:
        if position in self._kept:
            self._kept.move_to_end(position)
            return self._kept[position]
        try:
            records = self._parsed(position)
        except (McapError, ZstdError, struct.error, ValueError, RuntimeError, MemoryError) as error:
            told = " ".join(str(error).split()) or type(error).__name__
            raise RecordingError(f"{self._path}: damaged at byte {position}: {told}") from error
        self._kept[position] = records
        if len(self._kept) > KEPT_RECORDS:
            self._kept.popitem(last=False)
        return records

    def _parsed(self, position: int) -> list[McapRecord]:
        opcode, length = _HEADER.unpack(self._read(position, _HEADER.size))
        readers = {Opcode.SCHEMA: Schema.read, Opcode.CHANNEL: Channel.read, Opcode.CHUNK: Chunk.read}
        if opcode not in readers and opcode != Opcode.MESSAGE:
            return []
        if length > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {length} bytes is too large")
        stream = ReadDataStream(io.BytesIO(self._read(position + _HEADER.size, length)))
        if opcode == Opcode.MESSAGE:
            return [Message.read(stream, length)]
        record: McapRecord = readers[opcode](stream)
        if not isinstance(record, Chunk):
            return [record]
        if record.uncompressed_size > MAX_RECORD_BYTES:
            raise ValueError(f"a chunk of {record.uncompressed_size} bytes is too large")
        chunk: list[McapRecord] = breakup_chunk(record, validate_crc=True)
        return chunk

    def _read(self, position: int, size: int) -> bytes:
        try:
            self._file.seek(position)
            return self._file.read(size)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self._path}: cannot be read: {error.strerror or error}")
