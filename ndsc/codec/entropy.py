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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndsc.codec import range_coder
from ndsc.codec.errors import PayloadCorruptError

Tables = Sequence[NDArray[np.uint32]]
"""Integer frequencies [codebook size] of each stage."""

_log = logging.getLogger(__name__)


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


def _model(stream: Any, frequencies: NDArray[np.uint32]) -> Any:
    return stream.model.Categorical(frequencies.astype(np.float64), perfect=False)


def encode(stages: Sequence[NDArray[np.int32]], tables: Tables) -> bytes:
    """Code each stage's indices in raster order, one stage after the other: little-endian uint32 words.

    `stages[s]` is int32 of any shape with values in [0, len(tables[s])). There may be more tables than
    stages.
    """
    stream = _stream()
    if stream is None:
        return range_coder.encode(stages, tables)
    coder = stream.queue.RangeEncoder()
    for indices, frequencies in zip(stages, tables, strict=False):
        coder.encode(np.ascontiguousarray(indices, dtype=np.int32).ravel(), _model(stream, frequencies))
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


def decode(data: bytes, counts: Sequence[int], tables: Tables) -> list[NDArray[np.int32]]:
    """Read `counts[s]` indices of each stage from the words of `encode`: int32 [counts[s]], always inside the
    tables.

    `len(data)` must be a multiple of 4. Damaged data mostly gives wrong indices and no error;
    PayloadCorruptError where it points outside every symbol.
    """
    stream = _stream()
    if stream is None:
        return range_coder.decode(data, counts, tables)
    words = np.frombuffer(data, dtype="<u4").astype(np.uint32)
    coder = stream.queue.RangeDecoder(words)
    try:
        return [
            coder.decode(_model(stream, frequencies), count)
            for count, frequencies in zip(counts, tables, strict=False)
        ]
    except AssertionError as error:
        raise PayloadCorruptError("the coded bytes are damaged; ask for the frame again") from error
