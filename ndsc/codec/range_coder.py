"""The range coder of the bitstream in pure Python, for machines where constriction has no wheel.

It gives the same bytes, and reads any bytes as the same indices, as constriction 0.5.0's queue coder with
`Categorical(float64 frequencies, perfect=False)`: words of 32 bits, a state of 64 bits, probabilities in parts
of 2**24. Range coding is due to G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a
digitised message" (1979).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ndsc.codec.errors import PayloadCorruptError

_PRECISION: Final = 24
_PARTS: Final = 1 << _PRECISION
_WORD_BITS: Final = 32
_WORD: Final = 1 << _WORD_BITS
_WORD_MASK: Final = _WORD - 1
_FULL_RANGE: Final = (1 << 64) - 1


def encode(stages: Sequence[NDArray[np.int32]], tables: Sequence[NDArray[np.uint32]]) -> bytes:
    """Code each stage's indices in raster order, one stage after the other: little-endian uint32 words.

    `stages[s]` is int32 of any shape with values in [0, len(tables[s])), KeyError otherwise; `tables[s]` holds
    integer frequencies [codebook size]. There may be more tables than stages.
    """
    words: list[int] = []
    low, width = 0, _FULL_RANGE
    for indices, frequencies in zip(stages, tables, strict=False):
        lefts, parts = _intervals(indices, _edges(frequencies))
        for left, part in zip(lefts, parts, strict=True):
            unit = width >> _PRECISION
            low += unit * left
            width = unit * part
            if width < _WORD:
                # `low` may have passed 2**64: the word then keeps the carry as its 33rd bit until the end.
                words.append(low >> _WORD_BITS)
                low = (low & _WORD_MASK) << _WORD_BITS
                width <<= _WORD_BITS
    if width == _FULL_RANGE:  # no index at all: one index already takes the width below it for good
        return b""
    # One word that lies inside the range whatever follows it; a second one where the range ends in that word.
    last = (low + _WORD_MASK) >> _WORD_BITS
    words.append(last)
    if (low + width) >> _WORD_BITS == last:
        words.append(0)
    return _carried(words)


def decode(
    data: bytes, counts: Sequence[int], tables: Sequence[NDArray[np.uint32]]
) -> list[NDArray[np.int32]]:
    """Read `counts[s]` indices of each stage from the words of `encode`: int32 [counts[s]], always inside the
    tables.

    `len(data)` must be a multiple of 4; bytes that are missing read as zeros. Damaged data mostly gives wrong
    indices and no error; PayloadCorruptError where it points outside every symbol. It stores whatever count it
    is told.
    """
    words = iter(np.frombuffer(data, dtype="<u4").tolist())
    # How far the coded point lies above the low end of the range: always below `width` after the first index.
    offset = next(words, 0) << _WORD_BITS | next(words, 0)
    width = _FULL_RANGE
    decoded = []
    for count, frequencies in zip(counts, tables, strict=False):
        edges: list[int] = _edges(frequencies).tolist()
        indices = []
        for _ in range(count):
            unit = width >> _PRECISION
            quantile = offset // unit
            if quantile >= _PARTS:  # in what the division by 2**24 left over
                raise PayloadCorruptError("the coded bytes are damaged; ask for the frame again")
            after = bisect_right(edges, quantile)
            left = edges[after - 1]
            offset -= unit * left
            width = unit * (edges[after] - left)
            if width < _WORD:
                offset = offset << _WORD_BITS | next(words, 0)
                width <<= _WORD_BITS
            indices.append(after - 1)
        decoded.append(np.array(indices, dtype=np.int32))
    return decoded


def _edges(frequencies: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Where each index's interval starts, in parts of 2**24, and 2**24 itself: int64 [codebook size + 1].

    Every index gets one part; the other 2**24 - K are shared by ⌊(sum of the frequencies before) · scale⌋. One
    division, one product and one truncation of float64, each defined to the bit by IEEE 754; sums are exact
    below 2**53. Where the sum of all is a power of two, as in a prior, nothing is rounded before the ⌊⌋.
    """
    size = frequencies.size
    ends = np.cumsum(frequencies, dtype=np.float64)
    if frequencies.ndim != 1 or not 2 <= size < _PARTS - 1 or not ends[-1] > 0:
        raise ValueError("a frequency table has one axis, at least 2 entries and a sum above 0")
    edges = np.full(size + 1, _PARTS, dtype=np.int64)
    edges[0] = 0
    scale = float(_PARTS - size) / float(ends[-1])
    # The last edge is 2**24 by definition: rounding could leave it one part short.
    edges[1:size] = (ends[:-1] * scale).astype(np.int64) + np.arange(1, size)
    return edges


def _intervals(indices: NDArray[np.int32], edges: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Start and width of each index's interval, in raster order."""
    flat: NDArray[Any] = np.ascontiguousarray(indices, dtype=np.int32).ravel()
    if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < edges.size - 1:
        raise KeyError("an index is outside its frequency table")
    lefts = edges[flat]
    return lefts.tolist(), (edges[flat + 1] - lefts).tolist()


def _carried(words: list[int]) -> bytes:
    """Add each word's bits above 32 to the word before it."""
    carry = 0
    for position in range(len(words) - 1, -1, -1):
        word = words[position] + carry
        words[position] = word & _WORD_MASK
        carry = word >> _WORD_BITS
    return np.array(words, dtype="<u4").tobytes()
