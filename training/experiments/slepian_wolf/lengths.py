"""What a Slepian-Wolf code of finite length needs beyond the entropy, and beyond the mean frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

FAILURE: Final = 1e-3
"""Share of frames that may fail to decode where each frame's own H(Z|Y) is known."""
LOST: Final = 0.05
"""The same where it is not: with some tens of frames no smaller share can be measured."""


@dataclass(frozen=True)
class Price:
    """Of one rate level, in shares of H(Z)."""

    finite: float
    """Σ -log2 p(z|y) and the normal approximation's surplus for one frame a block at `FAILURE`, where an encoder
    is told each frame's H(Z|Y)."""
    blind: float
    """What an encoder must send who sees x alone, so that all but `LOST` of the frames decode: its own H(Z) times
    the largest share of H(Z) that such frames turned out to need."""


def price(
    bits: NDArray[np.float64],
    given: NDArray[np.float64],
    dispersion: NDArray[np.float64],
) -> Price:
    """From each frame's H(Z), realised -log2 p(z|y), and that one's variance under the model: [N] each.

    Second order (Tan and Kosut 2014, Theorem 1): a block of independent symbols needs Σ h + √(Σ V) · Q⁻¹(ε) bits;
    the next term, half the logarithm of its length, is left out. For Σ h stand the realised bits: over many frames
    they have the same mean where the model is calibrated, and where it is not they are what was needed. A rate
    chosen without y fails where the realised information exceeds it, so its price is a percentile of that alone.
    """
    finite = given + np.sqrt(dispersion) * norm.isf(FAILURE)
    largest = np.percentile(given / bits, 100 * (1 - LOST), method="inverted_cdf")
    return Price(float(finite.sum() / bits.sum()), float(largest))
