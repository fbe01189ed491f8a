"""Numbers as the integer latent priors compute them, with gradients.

Weights, activations and biases are rounded to fixed point in every forward pass of training (straight-through
gradients), so what is trained is bit for bit what is exported: float32 sums of integers that `ndsc.codec.exact`
proves to be exact. Every scale is a power of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndsc.codec.errors import BundleError
from training.prior_graph import LARGEST_ACTIVATION, Layer

LARGEST_WEIGHT = 127


@dataclass(frozen=True)
class Rounding:
    """How weights and activations are rounded."""

    activation_bits: int = 4
    """Activations are multiples of 2**-4, up to 255 of them."""
    weight_bits: int = 7
    """Weights are multiples of 2**-7, up to 127 of them."""
    enabled: bool = True
    """False computes in floats; such a network cannot be exported."""

    def weights(self, x: Tensor) -> Tensor:
        """Rounded and clipped."""
        if not self.enabled:
            return x
        limit = LARGEST_WEIGHT / (1 << self.weight_bits)
        return rounded(x, self.weight_bits).clamp(-limit, limit)

    def sums(self, x: Tensor) -> Tensor:
        """Biases, at the scale of a sum of products."""
        return rounded(x, self.weight_bits + self.activation_bits) if self.enabled else x

    def embeddings(self, x: Tensor) -> Tensor:
        """Rows of a table that a convolution reads."""
        if not self.enabled:
            return x
        limit = LARGEST_WEIGHT / (1 << self.activation_bits)
        return rounded(x, self.activation_bits).clamp(-limit, limit)

    def to_steps(self, x: Tensor) -> Tensor:
        """To multiples of an activation's step."""
        return rounded(x, self.activation_bits) if self.enabled else x

    def activation(self, x: Tensor, *, signed: bool = False) -> Tensor:
        """ReLU that ends at the largest activation; with `signed` both ends are there."""
        most = LARGEST_ACTIVATION / (1 << self.activation_bits)
        if not self.enabled:
            return x if signed else x.clamp(min=0)
        return x.clamp(-most if signed else 0, most)


def rounded(x: Tensor, fraction_bits: int) -> Tensor:
    """To multiples of 2**-fraction_bits, halves up; the gradient passes straight through."""
    scale = float(1 << fraction_bits)
    return x + (torch.floor(x * scale + 0.5) / scale - x).detach()


def integers(x: Tensor, fraction_bits: int) -> npt.NDArray[np.float32]:
    """Rounded numbers in their steps. Raises BundleError when they are not rounded."""
    scaled = x.detach().double() * (1 << fraction_bits)
    if not torch.equal(scaled, scaled.round()):
        raise BundleError("a prior trained in floats cannot be exported")
    return scaled.numpy().astype(np.float32)


class Convolution(nn.Module):
    """Convolution with rounded weights, "same" padding. [B, I, h, w] → sums [B, O, h, w], not yet in steps."""

    def __init__(
        self, rounding: Rounding, inputs: int, outputs: int, size: int, gain: float = 1.0, groups: int = 1
    ) -> None:
        super().__init__()
        self.rounding, self.groups = rounding, groups
        fan_in = inputs // groups * size * size
        weight = torch.randn(outputs, inputs // groups, size, size) * gain / math.sqrt(fan_in)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The sums."""
        weight, bias = self.rounding.weights(self.weight), self.rounding.sums(self.bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=self.groups)

    def layer(self) -> Layer:
        """In integers."""
        bits = self.rounding.weight_bits
        return Layer(
            integers(self.rounding.weights(self.weight), bits),
            integers(self.rounding.sums(self.bias), bits + self.rounding.activation_bits),
        )


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, low: float, high: float) -> Tensor:
        context.save_for_backward(x)
        context.limits = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (x,) = context.saved_tensors
        low, high = context.limits
        # A step of descent moves against the gradient.
        passes = ((x >= low) | (gradient < 0)) & ((x <= high) | (gradient > 0))
        return gradient * passes, None, None


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Clip to [low, high]; beyond a limit only gradients that lead back pass: nothing stays there for good."""
    clipped: Tensor = _Bounded.apply(x, low, high)  # type: ignore[no-untyped-call]
    return clipped
