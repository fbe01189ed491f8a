"""Blocks of the binary source, and how sure a block error rate is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from scipy.stats import beta
from torch import Tensor

BLOCK_BITS: Final = 648
"""n: length of x and of y."""
MESSAGE_BITS: Final = 162
"""Sent for one x."""


def draw(
    count: int, bits: int, crossover: float, generator: torch.Generator, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """x and y, float32 [count, bits] of 0 and 1: fair bits, and those bits through a BSC(crossover)."""
    source = torch.randint(2, (count, bits), generator=generator).float()
    flipped = (torch.rand(count, bits, generator=generator) < crossover).float()
    return source.to(device), (source - flipped).abs().to(device)


@dataclass(frozen=True)
class Failures:
    """Blocks that came back with one wrong bit or more."""

    failed: int
    blocks: int

    @property
    def rate(self) -> float:
        """BLER: the block error rate."""
        return self.failed / self.blocks

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Clopper and Pearson."""
        low = float(beta.ppf(0.025, self.failed, self.blocks - self.failed + 1)) if self.failed else 0.0
        intact = self.blocks - self.failed
        high = float(beta.ppf(0.975, self.failed + 1, intact)) if intact else 1.0
        return low, high

    def __add__(self, other: Failures) -> Failures:
        return Failures(self.failed + other.failed, self.blocks + other.blocks)
