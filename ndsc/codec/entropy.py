"""Range coding of indices with constriction, in the one way whose output is part of the bitstream.

constriction turns a table into fixed point in the table's own floating-point type, so float32 and float64
tables of the same numbers give different bits. Only one constructor is used here: integer frequencies, as
float64, `perfect=False`. It rarely reports damage (an AssertionError, where the bytes point into the small
part of its range that belongs to no symbol); otherwise any bytes decode to plausible indices, and it
allocates whatever count it is told. Callers therefore take the count from the geometry, never from the wire,
and check the result.

Where constriction cannot be imported (it has no wheel for Linux on aarch64), `range_coder` does the same in
Python.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ndsc.codec import range_coder
from ndsc.codec.errors import PayloadCorruptError

Table = NDArray[Any]
"""Integer frequencies of any number type: [K] for all indices coded with it, or [n, K], one row for each."""

_log = logging.getLogger(__name__)


class Decoder(Protocol):
    """Reads indices one array after the other, since in a context prior each table hangs on those before."""

    def decode(self, count: int, frequencies: Table) -> NDArray[np.int32]:
        """The next `count` indices: int32 [count], always inside the table.

        Damaged data mostly gives wrong indices and no error; PayloadCorruptError where it points outside
        every symbol.
        """


@cache
def _stream() -> Any:
    """`constriction.stream`, or None where it cannot be imported.

    Asked for at the first use and not on import, so that a process has set up its logs before the line.
    """
    try:
        import constriction
    except ImportError as error:
        _log.info(
            "range coding in pure Python, same bytes but slower: constriction is not usable (%s)", error
        )
        return None
    return constriction.stream


def _model(stream: Any, frequencies: Table) -> tuple[Any, ...]:
    """Arguments that stand for a table in constriction's calls."""
    as_float64 = np.ascontiguousarray(frequencies, dtype=np.float64)
    if as_float64.ndim == 1:
        return (stream.model.Categorical(as_float64, perfect=False),)
    return (_family(stream), as_float64)


@cache
def _family(stream: Any) -> Any:
    """The model of one row for each index."""
    return stream.model.Categorical(perfect=False)


def encode(stages: Sequence[NDArray[np.int32]], tables: Sequence[Table]) -> bytes:
    """Code one array of indices after the other, each in raster order: little-endian uint32 words.

    `stages[s]` is int32 of any shape with values in [0, K) of `tables[s]`. There may be more tables than
    stages.
    """
    stream = _stream()
    if stream is None:
        return range_coder.encode(stages, tables)
    coder = stream.queue.RangeEncoder()
    for indices, frequencies in zip(stages, tables, strict=False):
        if indices.size:
            coder.encode(np.ascontiguousarray(indices, dtype=np.int32).ravel(), *_model(stream, frequencies))
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


def decoder(data: bytes) -> Decoder:
    """Reads the words of `encode`. `len(data)` must be a multiple of 4, ValueError otherwise."""
    stream = _stream()
    return range_coder.Decoder(data) if stream is None else _ConstrictionDecoder(stream, data)


class _ConstrictionDecoder:
    def __init__(self, stream: Any, data: bytes) -> None:
        self._stream = stream
        self._coder = stream.queue.RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))

    def decode(self, count: int, frequencies: Table) -> NDArray[np.int32]:
        model = _model(self._stream, frequencies)
        if count == 0:
            return np.zeros(0, np.int32)
        try:
            # With a row for each index the rows are the count; with one table the count is told.
            decoded: NDArray[np.int32] = self._coder.decode(*model, *(() if len(model) == 2 else (count,)))
        except AssertionError as error:
            raise PayloadCorruptError("the coded bytes are damaged; ask for the frame again") from error
        return decoded


def decode(data: bytes, counts: Sequence[int], tables: Sequence[Table]) -> list[NDArray[np.int32]]:
    """Read `counts[s]` indices with each table: what a `decoder` does where all tables are known before."""
    reader = decoder(data)
    return [reader.decode(count, table) for count, table in zip(counts, tables, strict=False)]
