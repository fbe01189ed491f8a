"""The coding order of the context prior: stages, groups of positions, and the grid taken apart into phases.

A *cell* is two rows and two columns of positions, of the grid (scale 0) or of every second row and column of it
(scale 1); a *phase* is one position of every cell, by its row and column parity at that scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

BANDS: Final = 8
"""Bands of rows: what lies at the top of a frame is not what lies at its bottom."""
MAX_CODEBOOK: Final = 1 << 12
PHASES: Final = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Row and column parity."""
LOGIT_LIMIT: Final = 1 << 12

Grid = NDArray[np.int32]

_Parity = Annotated[int, Field(ge=0, le=1)]
_Logit = Annotated[int, Field(ge=-LOGIT_LIMIT, le=LOGIT_LIMIT)]


class StrictModel(BaseModel):
    """No unknown keys, no conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Group(StrictModel):
    """Positions that are coded together."""

    scale: Annotated[int, Field(ge=0, le=1)]
    """1: phases of every second row and column of the grid; 0: phases of the grid."""
    phases: Annotated[
        list[Annotated[list[_Parity], Field(min_length=2, max_length=2)]], Field(min_length=1, max_length=4)
    ]
    table: (
        Annotated[
            list[Annotated[list[_Logit], Field(fail_fast=True)]],
            Field(fail_fast=True, min_length=BANDS, max_length=BANDS),
        ]
        | None
    ) = None
    """Logits for each band, for a group that no network predicts."""

    @property
    def order(self) -> tuple[tuple[int, int], ...]:
        """The phases, in coding order."""
        return tuple((a, b) for a, b in self.phases)


class Stage(StrictModel):
    """How the indices of one residual stage are coded."""

    codebook_size: Annotated[int, Field(ge=2, le=MAX_CODEBOOK)]
    low_bits: Annotated[int, Field(ge=0, le=8)]
    """Bits of an index's low digit; 0 codes the index as one digit."""
    order: Annotated[list[int], Field(min_length=2, max_length=MAX_CODEBOOK)]
    """The indices in the order of their labels, a permutation. Labels are what is coded: like indices lie together
    in them, so that they share the high digit."""
    groups: Annotated[list[Group], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _every_position_once(self) -> Self:
        low = 1 << self.low_bits
        if self.high_size < 2 or self.high_size > 256 or self.high_size * low != self.codebook_size:
            raise ValueError("low_bits does not split the codebook into digits of 2 to 256 values")
        if sorted(self.order) != list(range(self.codebook_size)):
            raise ValueError("order does not hold every index exactly once")
        whole: list[tuple[int, ...]] = []
        quarter: list[tuple[int, ...]] = []
        for group in self.groups:
            phases = group.order
            if group.scale == 1 and whole:
                raise ValueError("groups of scale 1 come before those of scale 0")
            (quarter if group.scale == 1 else whole).extend(phases)
            if group.table is not None and any(len(row) != self.logits for row in group.table):
                raise ValueError(f"a table row holds {self.logits} logits")
        expected = PHASES[1:] if quarter else PHASES
        if sorted(whole) != sorted(expected) or sorted(quarter) != sorted(PHASES if quarter else ()):
            raise ValueError("the groups do not hold every position exactly once")
        return self

    @property
    def high_size(self) -> int:
        """Values of the high digit."""
        return self.codebook_size >> self.low_bits

    def known(self, group: int) -> list[tuple[int, int]]:
        """Phases, at the group's scale, of this stage that are coded before the group, in that order."""
        scale = self.groups[group].scale
        before = [(0, 0)] if scale == 0 and self.groups[0].scale == 1 else []
        for earlier in self.groups[:group]:
            if earlier.scale == scale:
                before += earlier.order
        return before

    @property
    def low_size(self) -> int:
        """Values of the low digit; 0 when there is none."""
        return 1 << self.low_bits if self.low_bits else 0

    @property
    def logits(self) -> int:
        """Logits of one position: the high digit's, then the low digit's for each value of the high one."""
        return self.high_size * (1 + self.low_size)


@dataclass(frozen=True)
class Places:
    """Where a group's logits lie in the sums of its network, [phases, logits, rows, columns] of cells."""

    sizes: tuple[tuple[int, int], ...]
    """Rows and columns of each phase that lie in the grid."""
    low: NDArray[np.int64]
    """[low digits, n], positions in coding order: places in the flat sums, where the high digit is 0."""
    apart: int
    """Between the logits of one high digit and those of the next."""

    def high(self, sums: NDArray[np.float32], high_size: int) -> NDArray[np.float32]:
        """The high digit's logits, [high digits, n]."""
        return np.concatenate(
            [
                of_phase[:high_size, :rows, :columns].reshape(high_size, rows * columns)
                for of_phase, (rows, columns) in zip(sums, self.sizes, strict=True)
            ],
            axis=1,
        )


@lru_cache(maxsize=64)
def places(
    height: int, width: int, scale: int, phases: tuple[tuple[int, int], ...], high_size: int, low_size: int
) -> Places:
    """Places of a group of `phases` in the sums for a grid of this size; cached, since frames have few sizes."""
    step = 2 << scale
    rows, columns = -(-height // step), -(-width // step)
    logits = high_size * (1 + low_size)
    sizes = tuple(_phase_size(height, width, scale, phase) for phase in phases)
    parts = []
    for number, (inside_rows, inside_columns) in enumerate(sizes):
        cells = np.arange(inside_rows)[:, None] * columns + np.arange(inside_columns)
        parts.append((cells + number * logits * rows * columns).ravel())
    low = np.concatenate(parts) + (high_size + np.arange(low_size)[:, None]) * (rows * columns)
    return Places(sizes, low, low_size * rows * columns)


def _phase_size(height: int, width: int, scale: int, phase: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a phase that lie in the grid."""
    step, half = 2 << scale, 1 << scale
    return (height - phase[0] * half + step - 1) // step, (width - phase[1] * half + step - 1) // step


class Planes:
    """The grid of each stage, taken apart into phases; what lies outside the grid has the index K."""

    def __init__(self, indices: Grid, codebook_sizes: Sequence[int], *, known: bool) -> None:
        self.stages, self.height, self.width = indices.shape
        self._indices = indices
        # Padded to whole cells of the coarse scale, so that each phase is a strided view.
        padded = (-(-self.height // 4) * 4, -(-self.width // 4) * 4)
        self._padded = np.empty((self.stages, *padded), np.int32)
        for stage, (grid, size) in enumerate(zip(indices, codebook_sizes, strict=False)):
            self._padded[stage] = size
            if known:
                self._padded[stage, : self.height, : self.width] = grid

    def cells(self, scale: int) -> tuple[int, int]:
        """Rows and columns of cells, each of one position of every phase."""
        step = 2 << scale
        return -(-self.height // step), -(-self.width // step)

    def size(self, scale: int, phase: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of a phase that lie in the grid."""
        return _phase_size(self.height, self.width, scale, phase)

    def bands(self, scale: int) -> NDArray[np.int32]:
        """Band of each row of cells."""
        rows = self.cells(scale)[0]
        return (np.arange(rows, dtype=np.int32) * BANDS) // rows

    def plane(self, stage: int, scale: int, phase: Sequence[int]) -> Grid:
        """A phase with K outside the grid: int32 [rows, columns] of cells."""
        step, half = 2 << scale, 1 << scale
        rows, columns = self.cells(scale)
        plane: Grid = self._padded[stage, phase[0] * half :: step, phase[1] * half :: step][:rows, :columns]
        return plane

    def stack(self, stage: int, scale: int, phases: Sequence[Sequence[int]]) -> Grid:
        """Several phases: int32 [phases, rows, columns] of cells."""
        stacked = np.empty((len(phases), *self.cells(scale)), np.int32)
        for plane, phase in zip(stacked, phases, strict=True):
            plane[:] = self.plane(stage, scale, phase)
        return stacked

    def grid(self, stage: int, scale: int) -> Grid:
        """The positions of a scale with K outside the grid: int32 [2 · rows, 2 · columns] of cells."""
        step = 1 << scale
        rows, columns = self.cells(scale)
        grid: Grid = self._padded[stage, ::step, ::step][: 2 * rows, : 2 * columns]
        return grid

    def take(self, stage: int, group: Group) -> Grid:
        """A group's indices in coding order: phase by phase, raster order in each."""
        return np.concatenate([self._view(stage, group.scale, phase).ravel() for phase in group.phases])

    def put(self, stage: int, group: Group, indices: Grid) -> None:
        """Set a group's indices, in the planes and in the grid they came from."""
        start = 0
        step, half = 2 << group.scale, 1 << group.scale
        for phase in group.phases:
            rows, columns = self.size(group.scale, phase)
            values = indices[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
            self.plane(stage, group.scale, phase)[:rows, :columns] = values
            self._indices[stage, phase[0] * half :: step, phase[1] * half :: step] = values

    def _view(self, stage: int, scale: int, phase: Sequence[int]) -> Grid:
        rows, columns = self.size(scale, phase)
        return self.plane(stage, scale, phase)[:rows, :columns]
