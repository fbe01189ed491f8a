"""What a Slepian-Wolf code of finite length needs beyond the entropy, and beyond the mean frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

FAILURE: Final = 1e-3
"""Share of frames that may fail to decode."""


@dataclass(frozen=True)
class Price:
    """Of one rate level, in shares of H(Z)."""

    ideal: float
    """H(Z|Y) / H(Z) over all frames: a code of any length that knows each frame's H(Z|Y)."""
    finite: float
    """The same with the normal approximation's surplus for one frame a block at `FAILURE`."""
    blind: float
    """And with the rate that an encoder must choose who sees x alone: its own H(Z) times the share that the worst
    frames need, their 95th percentile."""


def price(bits: NDArray[np.float64], given: NDArray[np.float64], dispersion: NDArray[np.float64]) -> Price:
    """From each frame's H(Z), H(Z|Y) and dispersion, [N] bits, bits and squared bits.

    Second order (Tan and Kosut 2014, Theorem 1): a block of independent symbols needs Σ h + √(Σ V) · Q⁻¹(ε) bits;
    the next term, half the logarithm of its length, is left out.
    """
    surplus = np.sqrt(dispersion) * norm.isf(FAILURE)
    finite = given + surplus
    return Price(
        float(given.sum() / bits.sum()),
        float(finite.sum() / bits.sum()),
        float(np.percentile(finite / bits, 95)),
    )
