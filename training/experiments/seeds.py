"""Means and bars over seeds. Runs of one seed share start and batches, so differences are taken seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    standard_error: float
    """Of the mean."""
    half_width: float
    """Of the 95 % interval (Student's t)."""

    @property
    def clear(self) -> bool:
        """The 95 % interval leaves zero out."""
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and bars of one figure for each seed. Raises ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError("bars need at least two seeds")
    error = statistics.stdev(values) / len(values) ** 0.5
    return Estimate(statistics.fmean(values), error, float(t.ppf(0.975, len(values) - 1)) * error)


def paired(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """`values` less `reference`, seed by seed."""
    return estimate([value - other for value, other in zip(values, reference, strict=True)])
