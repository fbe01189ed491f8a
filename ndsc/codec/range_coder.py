"""The range coder of the bitstream in pure Python, for machines where constriction has no wheel.

It gives the same bytes, and reads any bytes as the same indices, as constriction 0.5.0's queue coder with
`Categorical(float64 frequencies, perfect=False)`: words of 32 bits, a state of 64 bits, probabilities in parts
of 2**24. Range coding is due to G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a
digitised message" (1979).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import repeat
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


def encode(stages: Sequence[NDArray[np.int32]], tables: Sequence[NDArray[Any]]) -> bytes:
    """Code one array of indices after the other, each in raster order: little-endian uint32 words.

    `stages[s]` is int32 of any shape with n values in [0, K), KeyError otherwise; `tables[s]` holds integer
    frequencies, [K] for all of them or [n, K] for each its own. There may be more tables than stages.
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


class Decoder:
    """Reads the words of `encode`; bytes that are missing read as zeros. `len(data)` must be a multiple of 4.

    Damaged data mostly gives wrong indices and no error; PayloadCorruptError where it points outside every
    symbol. It stores whatever count it is told.
    """

    def __init__(self, data: bytes) -> None:
        self._words = iter(np.frombuffer(data, dtype="<u4").tolist())
        # How far the coded point lies above the low end of the range: below `width` after the first index.
        self._offset = next(self._words, 0) << _WORD_BITS | next(self._words, 0)
        self._width = _FULL_RANGE

    def decode(self, count: int, frequencies: NDArray[Any]) -> NDArray[np.int32]:
        """The next `count` indices, int32 [count], with frequencies [K] or [count, K]."""
        edges: Any = _edges(frequencies).tolist()
        rows = edges if frequencies.ndim == 2 else repeat(edges, count)
        words, offset, width = self._words, self._offset, self._width
        indices = []
        for row in rows:
            unit = width >> _PRECISION
            quantile = offset // unit
            if quantile >= _PARTS:  # in what the division by 2**24 left over
                raise PayloadCorruptError("the coded bytes are damaged; ask for the frame again")
            after = bisect_right(row, quantile)
            left = row[after - 1]
            offset -= unit * left
            width = unit * (row[after] - left)
            if width < _WORD:
                offset = offset << _WORD_BITS | next(words, 0)
                width <<= _WORD_BITS
            indices.append(after - 1)
        self._offset, self._width = offset, width
        return np.array(indices, dtype=np.int32)


def _edges(frequencies: NDArray[Any]) -> NDArray[np.int64]:
    """Where each index's interval starts, in parts of 2**24, and 2**24 itself: int64 [..., K + 1].

    Every index gets one part; the other 2**24 - K are shared by ⌊(sum of the frequencies before) · scale⌋. One
    division, one product and one truncation of float64, each defined to the bit by IEEE 754; sums are exact
    below 2**53. Where the sum of all is a power of two, as in a prior, nothing is rounded before the ⌊⌋.
    """
    size = frequencies.shape[-1]
    ends = np.cumsum(frequencies, axis=-1, dtype=np.float64)
    if frequencies.ndim not in (1, 2) or not 2 <= size < _PARTS - 1 or not (ends[..., -1] > 0).all():
        raise ValueError("frequencies are [K] or [n, K] with K of at least 2 and sums above 0")
    edges = np.full((*frequencies.shape[:-1], size + 1), _PARTS, dtype=np.int64)
    edges[..., 0] = 0
    scale = float(_PARTS - size) / ends[..., -1:]
    # The last edge is 2**24 by definition: rounding could leave it one part short.
    edges[..., 1:size] = (ends[..., :-1] * scale).astype(np.int64) + np.arange(1, size)
    return edges


def _intervals(indices: NDArray[np.int32], edges: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Start and width of each index's interval, in raster order."""
    flat: NDArray[Any] = np.ascontiguousarray(indices, dtype=np.int32).ravel()
    if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < edges.shape[-1] - 1:
        raise KeyError("an index is outside its frequency table")
    if edges.ndim == 1:
        lefts, rights = edges[flat], edges[flat + 1]
    else:
        rows = np.arange(flat.size)
        lefts, rights = edges[rows, flat], edges[rows, flat + 1]
    return lefts.tolist(), (rights - lefts).tolist()


def _carried(words: list[int]) -> bytes:
    """Add each word's bits above 32 to the word before it."""
    carry = 0
    for position in range(len(words) - 1, -1, -1):
        word = words[position] + carry
        words[position] = word & _WORD_MASK
        carry = word >> _WORD_BITS
    return np.array(words, dtype="<u4").tobytes()
