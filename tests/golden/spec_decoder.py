"""Sections 5, 6, 7, 9, 10 and 14 of proto/SPEC.md: from a payload or a `.ndsc` file to indices, in whole numbers.

Every name and every order of steps is the specification's. Nothing here is of the codec.
"""

# ruff: noqa: N803, N806 -- the names are those of the specification.

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tests.golden.spec_bundle import (
    BANDS,
    CELL_GROUPS,
    Bundle,
    CellGroup,
    ContextPrior,
    Group,
    ScalarPrior,
    StaticPrior,
)
from tests.golden.spec_errors import (
    BitstreamMismatchError,
    FrameFileError,
    GeometryError,
    PayloadCorruptError,
    PayloadSizeError,
)
from tests.golden.spec_operations import Array

PARTS: Final = 1 << 24
MOST_FILE_BYTES: Final = 1 << 26


@dataclass(frozen=True)
class Frame:
    """Section 2: a compressed frame is five facts."""

    bitstream_id: bytes
    rate_level: int
    width: int
    height: int
    payload: bytes


def decode_frame(bundle: Bundle, frame: Frame) -> list[list[int]]:
    """Indices of each stage sent, in raster order. Checks 2 to 8 of section 10, each with its error."""
    if frame.bitstream_id != bundle.bitstream_id:
        raise BitstreamMismatchError("bits of another bundle")
    bundle.stages_sent(frame.rate_level)
    h, w = grid(bundle, frame.width, frame.height)
    return decode_payload(bundle, frame.payload, frame.rate_level, h, w)


def grid(bundle: Bundle, width: int, height: int) -> tuple[int, int]:
    """Section 2.1: h and w. Raises GeometryError."""
    sides_fit = 1 <= width <= bundle.max_side and 1 <= height <= bundle.max_side
    if not sides_fit or width * height > bundle.max_pixels:
        raise GeometryError(f"no frame of {width} × {height}")
    return -(-height // bundle.stride), -(-width // bundle.stride)


def decode_payload(bundle: Bundle, payload: bytes, rate_level: int, h: int, w: int) -> list[list[int]]:
    """Indices of each stage sent, in raster order. Checks 3 and 5 to 8 of section 10."""
    least, most = payload_bounds(bundle, rate_level, h, w)
    if len(payload) % 4 or not least <= len(payload) <= most:
        raise PayloadSizeError(f"{len(payload)} bytes where {least} to {most} can be")
    decoder = Decoder(payload[:-4])
    indices = read_indices(bundle, decoder, rate_level, h, w)
    if encode(decoder.intervals) != payload[:-4]:  # section 5.2
        raise PayloadCorruptError("the coded bytes are not in canonical form")
    if payload[-4:] != checksum(bundle, rate_level, h, w, indices):
        raise PayloadCorruptError("the checksum does not fit")
    return indices


# Section 5, the payload


def crc32c(data: bytes) -> int:
    """Section 5.1: CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def checksum(bundle: Bundle, rate_level: int, h: int, w: int, indices: Sequence[Sequence[int]]) -> bytes:
    """Section 5.1: the last four bytes of a payload."""
    covered = bundle.bitstream_id + struct.pack("<BHH", rate_level, h, w)
    covered += b"".join(struct.pack(f"<{h * w}H", *stage) for stage in indices)
    return struct.pack("<I", crc32c(covered))


def digit_bits(f: int, k: int) -> tuple[float, float]:
    """Section 5.3: fewest and most bits of a digit of frequency f, one of k."""
    parts = f * (PARTS - k) // 2**16
    return max(0.0, 24 - math.log2(2 + parts)), 24 - math.log2(1 + parts) + math.log2(256 / 255)


def bits(bundle: Bundle, rate_level: int, h: int, w: int) -> tuple[float, float]:
    """Section 5.3: least_bits and most_bits."""
    sent = bundle.stages_sent(rate_level)
    if isinstance(bundle.prior, StaticPrior):
        likely = [(max(table), len(table)) for table in bundle.prior.frequencies[:sent]]
        unlikely = [(min(table), len(table)) for table in bundle.prior.frequencies[:sent]]
    elif isinstance(bundle.prior, ScalarPrior):  # section 14.5
        k, every = 4 * bundle.prior.b + 1, [f for table in bundle.prior.tables for f in table]
        likely, unlikely = [(max(every), k)] * sent, [(min(every), k)] * sent
    else:
        stages = bundle.prior.stages[:sent]
        sizes = [k for stage in stages for k in ([stage.H, stage.L] if stage.low_bits else [stage.H])]
        likely, unlikely = [(65536 - k + 1, k) for k in sizes], [(1, k) for k in sizes]
    fewest, most = sum(digit_bits(*d)[0] for d in likely), sum(digit_bits(*d)[1] for d in unlikely)
    return h * w * fewest, h * w * most


def payload_bounds(bundle: Bundle, rate_level: int, h: int, w: int) -> tuple[int, int]:
    """Section 5.3: least and most bytes of a payload."""
    least_bits, most_bits = bits(bundle, rate_level, h, w)
    return 4 + max(4, 4 * math.floor(least_bits / 32) - 8), 4 + 4 * math.ceil(most_bits / 32) + 8


# Section 6, the `.ndsc` file


def read_frame(data: bytes) -> Frame:
    """Check 1 of section 10. Raises FrameFileError."""
    if len(data) > MOST_FILE_BYTES:
        raise FrameFileError("longer than any")
    if data[:4] != b"NDSC":
        raise FrameFileError("not a .ndsc file")
    if len(data) > 4 and data[4] != 1:
        raise FrameFileError(f"version {data[4]}")
    if len(data) < 34:
        raise FrameFileError("too short")
    if struct.unpack("<I", data[-4:]) != (crc32c(data[:-4]),):
        raise FrameFileError("the checksum does not fit")
    _, _, rate_level, width, height, bitstream_id, length = struct.unpack("<4sBBHH16sI", data[:30])
    if length != len(data) - 34 or width < 1 or height < 1:
        raise FrameFileError("a header that does not fit")
    return Frame(bitstream_id, rate_level, width, height, data[30:-4])


# Section 7, the digits of a payload


def read_indices(bundle: Bundle, decoder: Decoder, rate_level: int, h: int, w: int) -> list[list[int]]:
    """The indices that the digits say, without the checks of sections 5.1 and 5.2."""
    sent = bundle.stages_sent(rate_level)
    if isinstance(bundle.prior, StaticPrior):  # section 5
        tables = [edges(f) for f in bundle.prior.frequencies[:sent]]
        return [[decoder.digit(edge) for _ in range(h * w)] for edge in tables]
    if isinstance(bundle.prior, ScalarPrior):
        return _read_planes(bundle.prior, decoder, rate_level, h, w)
    labels = Labels(bundle.prior.codebook_sizes, h, w)
    for s, stage in enumerate(bundle.prior.stages[:sent]):
        for g, group in enumerate(stage.groups):
            P = list(positions(group, h, w))
            if P:
                _read_group(bundle.prior, s, g, P, labels, decoder)
    return [
        [stage.order[labels.known[s, y, x]] for y in range(h) for x in range(w)]
        for s, stage in enumerate(bundle.prior.stages[:sent])
    ]


Position = tuple[int, int, int, int, int]
"""i, r, c, y, x: number of the phase, row and column of the cell, row and column of the grid."""


def _read_group(
    prior: ContextPrior, s: int, g: int, P: Sequence[Position], labels: Labels, decoder: Decoder
) -> None:
    stage = prior.stages[s]
    H, L = stage.H, stage.L
    X = logits(prior, s, g, labels)

    def digit(i: int, first: int, k: int, r: int, c: int) -> int:
        return decoder.digit(edges(frequencies(X[i, first : first + k, r, c].tolist(), prior.weights)))

    high = [digit(i, 0, H, r, c) for i, r, c, _, _ in P]
    low = [0] * len(P)
    if stage.low_bits:
        low = [digit(i, H + L * high[n], L, r, c) for n, (i, r, c, _, _) in enumerate(P)]
    for n, (_, _, _, y, x) in enumerate(P):
        labels.known[s, y, x] = high[n] * L + low[n]


def positions(group: Group, h: int, w: int) -> Iterator[Position]:
    """Section 7.1: the positions of a group in coding order."""
    half = 2**group.scale
    step = 2 * half
    for i, (a, b) in enumerate(group.phases):
        for r, y in enumerate(range(a * half, h, step)):
            for c, x in enumerate(range(b * half, w, step)):
                yield i, r, c, y, x


class Labels:
    """Section 7.2: the labels known so far; a position that is not yet known is a KeyError."""

    def __init__(self, codebook_sizes: Sequence[int], h: int, w: int) -> None:
        self.known: dict[tuple[int, int, int], int] = {}
        self.h, self.w = h, w
        self._sizes = codebook_sizes

    def cells(self, scale: int) -> tuple[int, int]:
        """R and C."""
        step = 2 * 2**scale
        return -(-self.h // step), -(-self.w // step)

    def plane(self, s: int, top: int, left: int, step: int, rows: int, columns: int) -> list[list[int]]:
        """Labels of stage s at every step-th row and column, K_s outside the grid: [rows, columns]."""
        ys = [top + r * step for r in range(rows)]
        xs = [left + c * step for c in range(columns)]
        return [
            [self.known[s, y, x] if y < self.h and x < self.w else self._sizes[s] for x in xs] for y in ys
        ]


def network_inputs(prior: ContextPrior, s: int, g: int, labels: Labels) -> dict[str, Array]:
    """Section 7.2: what the network of group g of stage s sees."""
    stage, name = prior.stages[s], f"s{s}g{g}"
    half = 2 ** stage.groups[g].scale
    R, C = labels.cells(stage.groups[g].scale)
    known = [labels.plane(s, a * half, b * half, 2 * half, R, C) for a, b in stage.known(g)]
    seen: dict[str, Any] = {f"{name}.band": [BANDS * r // R for r in range(R)]}
    if known:
        seen[f"{name}.known"] = known
    for t in range(s):
        seen[f"{name}.earlier{t}"] = labels.plane(t, 0, 0, half, 2 * R, 2 * C)
    return {key: np.array([content], np.int64) for key, content in seen.items()}


def logits(prior: ContextPrior, s: int, g: int, labels: Labels) -> Array:
    """Section 7.3: X, int64 [phases, logits, R, C]."""
    stage, group = prior.stages[s], prior.stages[s].groups[g]
    R, C = labels.cells(group.scale)
    shape = (len(group.phases), stage.logits, R, C)
    if group.table is not None:
        by_row = np.array([group.table[BANDS * r // R] for r in range(R)], np.int64)
        return np.broadcast_to(by_row.T[None, :, :, None], shape)
    values = prior.network.run(f"s{s}g{g}", network_inputs(prior, s, g, labels), R, C)
    return round_sums(values[f"s{s}g{g}.sums"].steps, prior.logit_shift)


def round_sums(sums: Array, logit_shift: int) -> Array:
    """Section 7.3: sums to logits, halves up."""
    X: Array = (sums + (2**logit_shift >> 1)) >> logit_shift
    return X


def frequencies(x: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Section 7.4: from the logits of one digit."""
    k, m = len(x), max(x)
    v = [weights[min(m - x_j, 255)] for x_j in x]
    total = sum(v)
    f = [1 + v_j * (65536 - k) // total for v_j in v]
    f[0] = 65536 - sum(f[1:])
    return f


# Section 14, planes


def _read_planes(prior: ScalarPrior, decoder: Decoder, level: int, h: int, w: int) -> list[list[int]]:
    """Indices of each plane, in raster order."""
    known: dict[tuple[int, int, int], int] = {}
    tables = [edges(table) for table in prior.tables]
    for group in CELL_GROUPS:
        predicted = _predicted(prior, group, level, known, h, w)
        in_order = sorted((4 * s + m % 4, place, m) for place, m, s in predicted)
        for t, (_, p, _, _, y, x), m in in_order:
            digit = decoder.digit(tables[t])
            index = digit + prior.b + (m >> 2) - 2 * prior.b
            if not 0 <= index <= 2 * prior.b:
                raise PayloadCorruptError("an index that no encoder makes")
            known[p, y, x] = index
    return [[known[p, y, x] for y in range(h) for x in range(w)] for p in range(prior.P)]


Place = tuple[int, int, int, int, int, int]
"""i, p, r, c, y, x: number of the phase, plane, row and column of the cell, row and column of the grid."""


def _predicted(
    prior: ScalarPrior, group: CellGroup, level: int, known: dict[tuple[int, int, int], int], h: int, w: int
) -> Iterator[tuple[Place, int, int]]:
    """Section 14.3: place, mean and scale of each index of a group."""
    R, C = -(-h // group.side), -(-w // group.side)
    sums: Array | None = None
    if group.known:
        planes = [
            [
                [known.get((p, r * group.side + a, c * group.side + b), 2 * prior.b + 1) for c in range(C)]
                for r in range(R)
            ]
            for a, b in group.known
            for p in range(prior.P)
        ]
        feeds = {f"{group.name}.known": np.array([planes]), f"{group.name}.level": np.array([level])}
        values = prior.network.run(group.name, feeds, R, C)
        sums = values[f"{group.name}.sums"].steps.reshape(2, len(group.phases), prior.P, R, C)
    for i, (a, b) in enumerate(group.phases):
        for p in range(prior.P):
            for r, y in enumerate(range(a, h, group.side)):
                for c, x in enumerate(range(b, w, group.side)):
                    m, s = prior.first[level][0][p], prior.first[level][1][p]
                    if sums is not None:
                        m = int(round_sums(sums[0, i, p, r, c], prior.mean_shift))
                        s = int(round_sums(sums[1, i, p, r, c], prior.scale_shift))
                    m = min(max(m, -4 * prior.b), 4 * prior.b)
                    yield (i, p, r, c, y, x), m, min(max(s, 0), prior.S - 1)


# Section 9, the range coder


def edges(f: Sequence[int]) -> list[int]:
    """Section 9.1."""
    k, before, edge = len(f), 0, [0]
    for j in range(1, k):
        before += f[j - 1]
        edge.append((before * (PARTS - k) >> 16) + j)
    return [*edge, PARTS]


class Encoder:
    """Section 9.2."""

    def __init__(self) -> None:
        self.low, self.width = 0, 2**64 - 1
        self.words: list[int] = []

    def digit(self, left: int, right: int) -> None:
        """Code the digit whose interval is left up to right."""
        unit = self.width >> 24
        self.low += unit * left
        self.width = unit * (right - left)
        if self.width < 2**32:
            self.words.append(self.low >> 32)
            self.low = (self.low % 2**32) << 32
            self.width <<= 32

    def end(self) -> bytes:
        """The coded bytes of at least one digit."""
        last = (self.low + 2**32 - 1) >> 32
        words = [*self.words, last]
        if (self.low + self.width) >> 32 == last:
            words.append(0)
        for n in range(len(words) - 1, 0, -1):
            words[n - 1] += words[n] >> 32
            words[n] %= 2**32
        return struct.pack(f"<{len(words)}I", *words)


def encode(intervals: Iterable[tuple[int, int]]) -> bytes:
    """Section 9.2: the coded bytes of digits, each by the edges of its interval."""
    encoder = Encoder()
    for left, right in intervals:
        encoder.digit(left, right)
    return encoder.end()


class Decoder:
    """Section 9.3; keeps the interval of each digit, so that section 5.2 can code them again."""

    def __init__(self, coded: bytes) -> None:
        self._words = iter(struct.unpack(f"<{len(coded) // 4}I", coded))
        self._offset = next(self._words, 0) << 32 | next(self._words, 0)
        self._width = 2**64 - 1
        self.intervals: list[tuple[int, int]] = []

    def digit(self, edge: Sequence[int]) -> int:
        """The next digit. Raises PayloadCorruptError where the bytes point outside all of them."""
        unit = self._width >> 24
        q = self._offset // unit
        if q >= PARTS:
            raise PayloadCorruptError("the coded bytes point outside every digit")
        j = bisect_right(edge, q) - 1
        self._offset -= unit * edge[j]
        self._width = unit * (edge[j + 1] - edge[j])
        if self._width < 2**32:
            self._offset = self._offset << 32 | next(self._words, 0)
            self._width <<= 32
        self.intervals.append((edge[j], edge[j + 1]))
        return j
