"""The prior of a scalar quantizer: one network pass predicts a mean and a scale for many indices at once.

    indices known so far → prior.onnx (exact integers) → mean, scale → one of a few frequency tables → range coder
            ↑                                                                                              │
            └──────────────────────────────── the group's indices ←────────────────────────────────────────┘

Each position of the grid holds one index of each *plane* (a channel of the encoder's latents), and a rate level
scales the latents before they are rounded: every level sends all planes. Positions are coded in four groups, the
first by tables, the others by one network pass each. `proto/SPEC.md` is the normative text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from ndsc.codec import entropy, exact, onnx_graph, shapes
from ndsc.codec.context import MAX_NETWORK_BYTES
from ndsc.codec.errors import BundleError, PayloadCorruptError, first_problem, printable
from ndsc.codec.prior import FREQUENCY_BITS, FREQUENCY_TOTAL, check_json_length, code_bits
from ndsc.codec.runtime import PriorSession
from ndsc.codec.schedule import Grid, StrictModel

MAX_PLANES: Final = 64
MAX_BOUND: Final = 31
MEAN_STEPS: Final = 4
"""Means are whole quarters."""
MAX_SCALES: Final = 64

SIDE_BY_SIDE_POSITIONS: Final = 2048
"""From so many positions on an encoder runs its passes in several threads (128x256 pixels have 512)."""

Phase = tuple[int, int]
"""Row and column within a cell."""


@dataclass(frozen=True)
class CellGroup:
    """Positions that are coded together: phases of the cells of `side`×`side` positions."""

    name: str
    """What inputs and output in prior.onnx start with; the first group has no network."""
    side: int
    phases: tuple[Phase, ...]
    known: tuple[Phase, ...] = ()
    """Phases of the same cells that its network sees."""


GROUPS: Final = (
    CellGroup("first", 4, ((0, 0),)),
    CellGroup("coarse", 4, ((0, 2), (2, 0), (2, 2)), known=((0, 0),)),
    CellGroup("diagonal", 2, ((1, 1),), known=((0, 0),)),
    CellGroup("rest", 2, ((0, 1), (1, 0)), known=((0, 0), (1, 1))),
)
"""In coding order: each position once."""

_Table = Annotated[
    list[Annotated[int, Field(ge=1, le=FREQUENCY_TOTAL)]],
    Field(fail_fast=True, min_length=5, max_length=4 * MAX_BOUND + 1),
]
_Numbers = Annotated[list[int], Field(min_length=1, max_length=MAX_PLANES)]


class _First(StrictModel):
    """Mean and scale of each plane of the first group, at one rate level."""

    mean: _Numbers
    scale: _Numbers


class _PriorFile(StrictModel):
    kind: Literal["scalar"]
    frequency_bits: Annotated[int, Field(ge=16, le=16)]
    network_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    planes: Annotated[int, Field(ge=1, le=MAX_PLANES)]
    bound: Annotated[int, Field(ge=1, le=MAX_BOUND)]
    mean_shift: Annotated[int, Field(ge=0, le=16)]
    scale_shift: Annotated[int, Field(ge=0, le=16)]
    tables: Annotated[list[_Table], Field(min_length=MEAN_STEPS, max_length=MEAN_STEPS * MAX_SCALES)]
    first: Annotated[list[_First], Field(min_length=1, max_length=256)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for table in self.tables:
            if len(table) != 4 * self.bound + 1 or sum(table) != FREQUENCY_TOTAL:
                raise ValueError(
                    f"a table holds {4 * self.bound + 1} frequencies that add up to {FREQUENCY_TOTAL}"
                )
        if len(self.tables) % MEAN_STEPS:
            raise ValueError(f"each scale has {MEAN_STEPS} tables")
        scales = len(self.tables) // MEAN_STEPS
        for level in self.first:
            if len(level.mean) != self.planes or len(level.scale) != self.planes:
                raise ValueError(f"first holds a mean and a scale for each of {self.planes} planes")
            if max(map(abs, level.mean)) > MEAN_STEPS * self.bound:
                raise ValueError(f"a mean of the first group is beyond {self.bound}")
            if not 0 <= min(level.scale) <= max(level.scale) < scales:
                raise ValueError(f"a scale of the first group is not 0 to {scales - 1}")
        return self


@dataclass(frozen=True, eq=False)
class _Choice:
    """Which table each index of a group has, in coding order: sorted by table, then phase, plane, row, column."""

    order: NDArray[np.intp]
    """Place, among the group's indices by phase, plane, row and column, of each in coding order."""
    tables: list[int]
    """The tables that occur, rising."""
    counts: list[int]
    """Indices of each."""
    base: NDArray[np.int32]
    """⌊mean⌋ of each index in coding order: a digit is what is left, plus 2 · bound."""


class ScalarPrior:
    """A latent prior of planes of whole numbers. Safe to use from several threads.

    Indices are the numbers plus `bound`: 0 to 2 · bound.

    Raises BundleError when the parts do not fit or the network cannot be proved exact (`ndsc.codec.exact`).
    """

    def __init__(self, prior_json: bytes, network: bytes) -> None:
        check_json_length(prior_json, "prior.json")
        try:
            parsed = _PriorFile.model_validate_json(prior_json)
        except ValidationError as error:
            raise BundleError(f"prior.json is not a valid prior: {first_problem(error)}") from error
        if len(network) > MAX_NETWORK_BYTES:
            raise BundleError(f"prior.onnx is larger than {MAX_NETWORK_BYTES} bytes")
        if hashlib.sha256(network).hexdigest() != parsed.network_sha256:
            raise BundleError("prior.onnx is not the network that prior.json names")
        self._json, self.network = prior_json, network
        self.planes, self.bound = parsed.planes, parsed.bound
        self.rate_levels = len(parsed.first)
        self._shifts = parsed.mean_shift, parsed.scale_shift
        self._tables = np.array(parsed.tables, dtype=np.float64)
        self._scales = len(parsed.tables) // MEAN_STEPS
        self._first = [(np.array(level.mean), np.array(level.scale)) for level in parsed.first]
        self._graph = onnx_graph.read(network, "prior.onnx")
        rows: dict[str, int] = {}
        for group in GROUPS[1:]:
            rows |= {f"{group.name}.known": 2 * self.bound + 2, f"{group.name}.level": self.rate_levels}
        bounds = exact.prove(self._graph, rows, "prior.onnx")
        outputs = {f"{group.name}.sums" for group in GROUPS[1:]}
        if set(bounds) != outputs:
            raise BundleError(
                f"prior.onnx has outputs {printable(str(sorted(bounds)))} where {sorted(outputs)} belong"
            )
        for group in GROUPS[1:]:
            self._check_shapes(group, 1, 1)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """How many values each plane's indices have."""
        return (2 * self.bound + 1,) * self.planes

    def passes(self, stages_sent: int) -> tuple[str, ...]:
        """Names of the network passes for one frame, in coding order."""
        return tuple(group.name for group in GROUPS[1:])

    def files(self) -> dict[str, bytes]:
        """The bundle's files of this prior."""
        return {"prior.json": self._json, "prior.onnx": self.network}

    def encode(self, indices: Grid, rate_level: int = 0, *, threads: int = 1) -> bytes:
        """Indices int32 [planes, h, w], 0 to 2 · bound → coded bytes, whole words.

        With more than one of `threads` the passes of a large frame run side by side, in up to three.
        """
        digits, tables = self._digits(indices, rate_level, side_by_side=threads > 1)
        return entropy.encode(digits, tables)

    def ideal_bits(self, indices: Grid, rate_level: int = 0) -> float:
        """Information in indices [planes, h, w] under this prior: -Σ log2(frequency / 2**16)."""
        total = 0.0
        for digits, table in zip(*self._digits(indices, rate_level), strict=True):
            total += FREQUENCY_BITS * digits.size - float(np.log2(table[digits]).sum())
        return total

    def decode(self, coded: bytes, stages_sent: int, height: int, width: int, rate_level: int = 0) -> Grid:
        """Coded bytes → indices int32 [planes, height, width].

        Raises PayloadCorruptError where the bytes are not the very ones that `encode` makes of the indices.
        """
        reader = entropy.decoder(coded)
        digits: list[Grid] = []
        tables: list[NDArray[np.float64]] = []

        def read(count: int, table: NDArray[np.float64]) -> Grid:
            digits.append(reader.decode(count, table))
            tables.append(table)
            return digits[-1]

        indices = self._fill(height, width, rate_level, read)
        outside = indices.min() < 0 or indices.max() > 2 * self.bound
        if outside or entropy.encode(digits, tables) != coded:
            raise PayloadCorruptError(
                "the coded bytes are not those of a sound encoder; ask for the frame again"
            )
        return indices

    def sample(
        self, rng: np.random.Generator, stages_sent: int, height: int, width: int, rate_level: int = 0
    ) -> Grid:
        """Indices int32 [planes, height, width] drawn from this prior, in integer arithmetic."""

        def draw(count: int, table: NDArray[np.float64]) -> Grid:
            points = rng.integers(FREQUENCY_TOTAL, size=count)
            return np.searchsorted(np.cumsum(table), points, side="right").astype(np.int32)

        return self._fill(height, width, rate_level, draw, clip=True)

    def bits_of_payload(self, stages_sent: int, positions: int) -> tuple[float, float]:
        """Fewest and most bits that the range coder can take for a grid of this many positions."""
        size = self._tables.shape[1]
        count = self.planes * positions
        likeliest, unlikeliest = int(self._tables.max()), int(self._tables.min())
        return code_bits(likeliest, size)[0] * count, code_bits(unlikeliest, size)[1] * count

    def _digits(
        self, indices: Grid, level: int, *, side_by_side: bool = False
    ) -> tuple[list[Grid], list[NDArray[np.float64]]]:
        """The digits of each table of each group, in coding order, and those tables."""
        digits: list[Grid] = []
        tables: list[NDArray[np.float64]] = []
        height, width = indices.shape[1:]
        padded = self._padded(height, width)
        padded[:, :height, :width] = indices
        choices = self._choices(padded, level, height, width, side_by_side=side_by_side)
        for group, choice in zip(GROUPS, choices, strict=True):
            flat = np.concatenate([indices[:, r, c].ravel() for r, c in _places(group)])
            in_order = (flat[choice.order] - choice.base + self.bound).astype(np.int32)
            start = 0
            for table, count in zip(choice.tables, choice.counts, strict=True):
                digits.append(in_order[start : start + count])
                tables.append(self._tables[table])
                start += count
        return digits, tables

    def _fill(
        self,
        height: int,
        width: int,
        level: int,
        read: Callable[[int, NDArray[np.float64]], Grid],
        *,
        clip: bool = False,
    ) -> Grid:
        """Indices whose digits come from `read`. What lies outside the values is clipped, or left for a check."""
        padded = self._padded(height, width)
        indices = np.zeros((self.planes, height, width), np.int32)
        for group in GROUPS:
            choice = self._choice(padded, group, level, height, width)
            digits = [read(n, self._tables[t]) for n, t in zip(choice.counts, choice.tables, strict=True)]
            values = np.empty(len(choice.order), np.int32)
            values[choice.order] = np.concatenate(digits) + choice.base - self.bound if digits else 0
            inside = values.clip(0, 2 * self.bound)  # networks must see nothing else
            start = 0
            for r, c in _places(group):
                view = indices[:, r, c]
                stop = start + view.size
                view[:] = (inside if clip else values)[start:stop].reshape(view.shape)
                padded[:, :height, :width][:, r, c] = inside[start:stop].reshape(view.shape)
                start = stop
        return indices

    def _padded(self, height: int, width: int) -> Grid:
        """Planes of whole cells, all outside the grid: [planes, ⌈h/4⌉·4, ⌈w/4⌉·4] of 2 · bound + 1.

        Raises BundleError, before it takes any memory, for a grid that is too much for the networks.
        """
        for group in GROUPS[1:]:
            self._check_shapes(group, -(-height // group.side), -(-width // group.side))
        sides = -(-height // 4) * 4, -(-width // 4) * 4
        return np.full((self.planes, *sides), 2 * self.bound + 1, np.int32)

    def _choices(
        self, padded: Grid, level: int, height: int, width: int, *, side_by_side: bool
    ) -> list[_Choice]:
        """Of all groups, where all indices are known: their networks need not wait for each other."""
        if not side_by_side or height * width < SIDE_BY_SIDE_POSITIONS:
            return [self._choice(padded, group, level, height, width) for group in GROUPS]
        _ = self._sessions  # made by one thread
        passes = [
            _helpers().submit(self._choice, padded, group, level, height, width) for group in GROUPS[2:]
        ]
        here = [self._choice(padded, group, level, height, width) for group in GROUPS[:2]]
        return here + [one.result() for one in passes]

    def _choice(self, padded: Grid, group: CellGroup, level: int, height: int, width: int) -> _Choice:
        """Tables and bases of a group's indices, from what is known."""
        mean, scale = self._parameters(
            padded, group, level, -(-height // group.side), -(-width // group.side)
        )
        table = scale * MEAN_STEPS + (mean & (MEAN_STEPS - 1))
        base = mean >> 2
        inside = [
            (
                slice(len(range(phase[0], height, group.side))),
                slice(len(range(phase[1], width, group.side))),
            )
            for phase in group.phases
        ]

        def flat(values: NDArray[np.int32]) -> NDArray[np.int32]:
            return np.concatenate([values[i, :, r, c].ravel() for i, (r, c) in enumerate(inside)])

        tables, bases = flat(table).astype(np.uint8), flat(base)
        order = np.argsort(tables, kind="stable")
        counts = np.bincount(tables, minlength=1)
        occurring = np.flatnonzero(counts)
        return _Choice(order, occurring.tolist(), counts[occurring].tolist(), bases[order])

    def _parameters(
        self, padded: Grid, group: CellGroup, level: int, rows: int, columns: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Mean in quarters and scale of each index: int32 [phases, planes, rows, columns] of cells."""
        shape = len(group.phases), self.planes, rows, columns
        if group.name == "first":
            means, scales = (p.astype(np.int32)[None, :, None, None] for p in self._first[level])
            return np.broadcast_to(means, shape), np.broadcast_to(scales, shape)
        known = np.concatenate(
            [padded[:, a :: group.side, b :: group.side][:, :rows, :columns] for a, b in group.known]
        )
        feeds = {
            f"{group.name}.known": np.ascontiguousarray(known[None]),
            f"{group.name}.level": np.array([level], np.int32),
        }
        sums = self._sessions[group.name].run(feeds)
        if sums.shape != (1, 2 * shape[0] * shape[1], rows, columns):
            raise BundleError(f"prior.onnx: {group.name}.sums has the shape {list(sums.shape)}")
        both = sums.astype(np.int32).reshape(2, *shape)
        mean, scale = (_rounded(part, shift) for part, shift in zip(both, self._shifts, strict=True))
        limit = MEAN_STEPS * self.bound
        return mean.clip(-limit, limit), scale.clip(0, self._scales - 1)

    def _check_shapes(self, group: CellGroup, rows: int, columns: int) -> None:
        """Raise BundleError where a network has no such sums for a grid of so many cells, or takes too much."""
        key = (group.name, rows, columns)
        if key in self._fit:
            return
        inputs = {
            f"{group.name}.known": (1, len(group.known) * self.planes, rows, columns),
            f"{group.name}.level": (1,),
        }
        expected = {f"{group.name}.sums": (1, 2 * len(group.phases) * self.planes, rows, columns)}
        shapes.check(self._graph, inputs, expected, shapes.most_elements(rows * columns), "prior.onnx")
        if len(self._fit) >= 1024:
            self._fit.clear()
        self._fit.add(key)

    @cached_property
    def _fit(self) -> set[tuple[str, int, int]]:
        return set()

    @cached_property
    def _sessions(self) -> dict[str, PriorSession]:
        return {
            group.name: PriorSession(
                onnx_graph.cut(self.network, f"{group.name}.sums", "prior.onnx"),
                group.name,
                (f"{group.name}.known", f"{group.name}.level"),
            )
            for group in GROUPS[1:]
        }


@cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="prior")


def _places(group: CellGroup) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each phase of a group in a grid."""
    for a, b in group.phases:
        yield slice(a, None, group.side), slice(b, None, group.side)


def _rounded(sums: NDArray[np.int32], shift: int) -> NDArray[np.int32]:
    """⌊sum / 2**shift + 1/2⌋."""
    shifted: NDArray[np.int32] = (sums + (1 << shift >> 1)) >> shift
    return shifted


def logistic_tables(scales: Sequence[float], bound: int) -> list[list[int]]:
    """Frequencies for logistic densities: for each scale one table for a mean of 0, ¼, ½ and ¾.

    The offset of an index from ⌊mean⌋ is -2 · bound to 2 · bound; each gets 1 and its share of the rest, rounded
    down, and what rounding leaves over goes to the likeliest.
    """
    tables = []
    offsets = np.arange(-2 * bound, 2 * bound + 1)
    for scale in scales:
        for quarter in range(MEAN_STEPS):
            edges = np.append(offsets - 0.5, offsets[-1] + 0.5) - quarter / MEAN_STEPS
            mass = np.diff(0.5 + 0.5 * np.tanh(edges / scale / 2))
            mass /= mass.sum()
            table = 1 + np.floor(mass * (FREQUENCY_TOTAL - len(offsets))).astype(int)
            table[mass.argmax()] += FREQUENCY_TOTAL - table.sum()
            tables.append(table.tolist())
    return tables
