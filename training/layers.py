"""The convolutions that the codec is made of.

Depthwise    whose gradients are fast on a CPU too
Pointwise    1x1, its weights a matrix: optimizers that work on matrices take it as it is
Patches      a frame's square patches, each to one position
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _FastBackward(torch.autograd.Function):
    """Depthwise convolution with odd kernel and "same" padding.

    On a CPU oneDNN's gradient of depthwise weights took half of a whole training step (bfloat16, channels last).
    Both gradients are convolutions themselves, and those are fast: the input's has the flipped kernel, and the
    weights' takes each picture's gradient as a kernel as large as the picture.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        x, weight = context.saved_tensors
        channels, size = len(weight), weight.shape[-1]
        of_x = F.conv2d(gradient, weight.flip(2, 3), padding=size // 2, groups=channels)
        batch, _, height, width = x.shape
        planes = x.transpose(0, 1).reshape(1, channels * batch, height, width)
        kernels = gradient.transpose(0, 1).reshape(channels * batch, 1, height, width)
        by_picture = F.conv2d(planes, kernels, padding=size // 2, groups=channels * batch)
        wide = torch.promote_types(weight.dtype, torch.float32)
        of_weight = by_picture.view(channels, batch, 1, size, size).sum(1, dtype=wide)
        of_bias = gradient.sum((0, 2, 3), dtype=wide)
        return of_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


class Depthwise(nn.Conv2d):
    """One square kernel for each channel, padded to the same size. [B, C, h, w] → [B, C, h, w]."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels, channels, size, padding=size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        learning = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if x.device.type != "cpu" or not learning:
            return super().forward(x)
        assert self.bias is not None
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):  # autocast does not look into a Function
            kind = torch.get_autocast_dtype("cpu")
            x, weight, bias = x.to(kind), weight.to(kind), bias.to(kind)
        convolved: Tensor = _FastBackward.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return convolved


class Pointwise(nn.Linear):
    """1x1 convolution, weight [O, I]. [B, I, h, w] → [B, O, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        """The same linear map at every position."""
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class Patches(Pointwise):
    """Square patches of a frame, less mid-grey, each to one position: [B, I, H, W] → [B, O, H/size, W/size].

    The same as `Pointwise` of `pixel_unshuffle(x - 0.5, size)`, its weights in that order, and so it is computed
    in eager training. Exported or compiled it is one strided convolution, which need not copy the frame about.
    """

    def __init__(self, channels: int, size: int, out_channels: int) -> None:
        super().__init__(channels * size**2, out_channels)
        self.channels, self.size = channels, size

    def forward(self, x: Tensor) -> Tensor:
        """H and W are multiples of the patches' size."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return super().forward(F.pixel_unshuffle(x - 0.5, self.size))
        kernels = self.weight.view(-1, self.channels, self.size, self.size)
        return F.conv2d(x, kernels, self.bias - 0.5 * self.weight.sum(1), stride=self.size)
