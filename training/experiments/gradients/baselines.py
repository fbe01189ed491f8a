"""Compressors without learning: random-k, top-k, QSGD and norm-proportional sampling.

Each says how many bits its message takes. A message of varying length is counted as it would be written, step by
step. Sets of coordinates cost log2 of their number, rounded up, which enumerative coding (Cover 1973) attains.
Random numbers are drawn per step, so that a run of the same seeds is the same run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

FLOAT_BITS = 32
HALF_BITS = 16


class Baseline(ABC):
    """A compressor that counts its bits.

    With `memory` (error feedback, Stich et al. 2018) what a message leaves out of a gradient is added to the next
    one. When `filled`, the server takes y's coordinates for those that were not sent.
    """

    def __init__(self, *, memory: bool = False, filled: bool = False, **settings: int) -> None:
        self.memory, self.filled = memory, filled
        self.key = f"{type(self).__name__} {settings | {'memory': memory}}{' filled' if filled else ''}"
        self._left_out: Tensor | None = None
        self._bits = 0.0
        self._messages = 0

    @property
    def bits(self) -> float:
        """Mean bits of the messages so far."""
        return self._bits / max(1, self._messages)

    def __call__(self, gradient: Tensor, side: Tensor, step: int) -> Tensor:
        """x̂ [R, n] of x [R, n]; step 0 begins new runs."""
        if step == 0:
            self._left_out = None
        wanted = gradient if self._left_out is None else gradient + self._left_out
        generator = torch.Generator().manual_seed(step)
        received, bits = self.send(wanted, torch.rand(wanted.shape, generator=generator).to(wanted.device))
        if self.filled:
            received = torch.where(received == 0, side, received)
        if self.memory:
            self._left_out = wanted - received
        self._bits += float(bits.sum())
        self._messages += len(gradient)
        return received

    @abstractmethod
    def send(self, gradient: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """x̂ [R, n] and the bits of each message [R]; `uniform` [R, n] are random numbers from 0 to 1."""


def half(values: Tensor) -> Tensor:
    """Through 16-bit floats and back."""
    return values.half().float()


def set_bits(members: Tensor, length: int) -> Tensor:
    """Bits [R] to write which `members` [R] (how many) of `length` coordinates are meant, the number known."""
    table = [math.ceil(math.log2(math.comb(length, k))) for k in range(length + 1)]
    return torch.tensor(table, device=members.device)[members]


def count_bits(length: int) -> int:
    """Bits of a number from 0 to `length`."""
    return math.ceil(math.log2(length + 1))


class Nothing(Baseline):
    """No message: x̂ is zero, the server steps on y alone."""

    def send(self, gradient: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """0 bits."""
        return torch.zeros_like(gradient), gradient.new_zeros(len(gradient))


class RandomK(Baseline):
    """k coordinates as 16-bit floats. Both ends draw the same ones, so these cost nothing.

    `unbiased` multiplies by n / k.
    """

    def __init__(self, k: int, *, unbiased: bool = False, memory: bool = False, filled: bool = False) -> None:
        super().__init__(memory=memory, filled=filled, k=k, unbiased=unbiased)
        self.k, self.unbiased = k, unbiased

    def send(self, gradient: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """16 k bits."""
        kept = uniform.topk(self.k, 1).indices
        factor = gradient.shape[1] / self.k if self.unbiased else 1.0
        received = torch.zeros_like(gradient).scatter(1, kept, factor * half(gradient.gather(1, kept)))
        return received, gradient.new_full((len(gradient),), HALF_BITS * self.k)


class TopK(Baseline):
    """The k largest coordinates as 16-bit floats, and which they are."""

    def __init__(self, k: int, *, memory: bool = False, filled: bool = False) -> None:
        super().__init__(memory=memory, filled=filled, k=k)
        self.k = k

    def send(self, gradient: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """16 k bits and the set."""
        kept = gradient.abs().topk(self.k, 1).indices
        received = torch.zeros_like(gradient).scatter(1, kept, half(gradient.gather(1, kept)))
        members = torch.full((len(gradient),), self.k, device=gradient.device)
        return received, HALF_BITS * self.k + set_bits(members, gradient.shape[1])


class Qsgd(Baseline):
    """QSGD (Alistarh et al. 2017): coordinates over the norm, rounded at random to `levels` steps, unbiased."""

    def __init__(self, levels: int, *, memory: bool = False) -> None:
        super().__init__(memory=memory, levels=levels)
        self.levels = levels

    def send(self, gradient: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The norm, which coordinates are not zero, their signs, and their levels in Elias's gamma code."""
        norm = gradient.norm(dim=1, keepdim=True).clamp(min=1e-30)
        scaled = gradient.abs() / norm * self.levels
        level = scaled.floor() + (uniform < scaled - scaled.floor())
        used = level > 0
        gamma = 2 * level.clamp(min=1).log2().floor() + 1 if self.levels > 1 else torch.zeros_like(level)
        length = gradient.shape[1]
        members = used.sum(1)
        bits = FLOAT_BITS + count_bits(length) + set_bits(members, length) + members + (gamma * used).sum(1)
        return gradient.sign() * level * norm / self.levels, bits


class NormSampling(Baseline):
    """Coordinates drawn in proportion to their magnitude, `k` on average (Wangni et al. 2018), unbiased.

    A coordinate of probability p is sent as x / p: one magnitude for all with p < 1, themselves where p = 1.
    """

    def __init__(self, k: int, *, memory: bool = False) -> None:
        super().__init__(memory=memory, k=k)
        self.k = k

    def send(self, gradient: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The common magnitude, two sets (drawn, certain), a sign for each drawn, 16 bits for each certain."""
        magnitude = gradient.abs().clamp(min=1e-30)
        probability = magnitude * self.k / magnitude.sum(1, keepdim=True)
        for _ in range(4):  # those that are certain leave their share to the rest
            certain = probability >= 1
            rest = (magnitude * ~certain).sum(1, keepdim=True).clamp(min=1e-30)
            left = (self.k - certain.sum(1, keepdim=True)).clamp(min=0)
            probability = torch.where(certain, 1.0, magnitude * left / rest)
        probability = probability.clamp(max=1)
        certain = probability >= 1
        drawn = (uniform < probability) & ~certain
        received = torch.where(certain, half(gradient), gradient / probability.clamp(min=1e-30) * drawn)
        length = gradient.shape[1]
        bits = FLOAT_BITS + 2 * count_bits(length) + set_bits(drawn.sum(1), length) + drawn.sum(1)
        return received, bits + set_bits(certain.sum(1), length) + HALF_BITS * certain.sum(1)
