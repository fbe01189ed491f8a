"""The kinds of side information, each for the same sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from ndsc.codec.frames import Frame
from training.experiments.recipe import RecipeError


class Side(StrEnum):
    """What the decoder is given as y (paper, Figure 5; `none` is ours)."""

    RIGHT = "right"
    """The pair's own other frame."""
    WRONG = "wrong"
    """Another pair's."""
    RANDOM = "random"
    """Uniform noise."""
    NONE = "none"
    """Nothing: for codes that can do without."""


@dataclass(frozen=True)
class Samples:
    """Sources and their own side information: each pair in both directions, the first direction first."""

    sources: tuple[Frame, ...]
    sides: tuple[Frame, ...]

    def __post_init__(self) -> None:
        if len(self.sources) < 4:
            raise RecipeError("wrong side information comes from another pair; give at least two pairs")

    def seen(self, kind: Side, seed: int = 0) -> list[Frame] | list[None]:
        """y of each source. A wrong one is from half the set away: neighbours may show one scene."""
        count = len(self.sides) // 2
        if kind is Side.RIGHT:
            return list(self.sides)
        if kind is Side.WRONG:
            return [self.sides[i - i % count + (i + count // 2) % count] for i in range(2 * count)]
        if kind is Side.RANDOM:
            rng = np.random.default_rng(seed)
            return [rng.integers(0, 256, side.shape, dtype=np.uint8) for side in self.sides]
        return [None] * (2 * count)

    def by_pair(self, figures: Sequence[float]) -> NDArray[np.float64]:
        """One figure for each sample → its mean over both directions of each pair, which are not independent."""
        means: NDArray[np.float64] = np.asarray(figures, np.float64).reshape(2, -1).mean(0)
        return means


@dataclass(frozen=True)
class Interval:
    """A mean over pairs and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, by_pair: NDArray[np.float64], seed: int = 0) -> Interval:
        """Percentile bootstrap, 10,000 resamples of the pairs."""
        mean = float(by_pair.mean())
        if np.ptp(by_pair) == 0:
            return cls(mean, mean, mean)
        resampled = bootstrap(
            (by_pair,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(seed)
        )
        return cls(mean, float(resampled.confidence_interval.low), float(resampled.confidence_interval.high))
