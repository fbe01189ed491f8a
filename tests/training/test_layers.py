"""The codec's convolutions compute what torch's do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.layers import Depthwise, Patches, Pointwise


def gradients(module: nn.Conv2d, x: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    module.zero_grad()
    source = x.detach().requires_grad_()
    out = module(source)
    torch.autograd.backward((out * weights).sum())
    assert source.grad is not None
    return [out.detach(), source.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torch(size: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(size)
    ours = Depthwise(6, size).double()
    theirs = nn.Conv2d(6, 6, size, padding=size // 2, groups=6).double()
    theirs.load_state_dict(ours.state_dict())
    x, weights = torch.randn(2, 3, 6, 7, 9, dtype=torch.float64)
    x = x.contiguous(memory_format=memory_format)
    found, expected = gradients(ours, x, weights), gradients(theirs, x, weights)
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def test_bfloat16_gradients_are_sums_in_float32() -> None:
    torch.manual_seed(0)
    module = Depthwise(4, 5)
    x, weights = torch.randn(2, 8, 4, 32, 64)
    exact = gradients(module, x, weights)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(module, x, weights)
    assert rounded[0].dtype == torch.bfloat16
    for one, other in zip(rounded, exact, strict=True):
        error = (one.float() - other).norm() / other.norm()
        assert 1e-4 < error < 1e-2


def test_gradients_survive_a_second_look_by_torch() -> None:
    module = Depthwise(2, 3).double()
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


def test_a_pointwise_layer_is_a_convolution_of_one_pixel() -> None:
    ours, theirs = Pointwise(3, 5), nn.Conv2d(3, 5, 1)
    assert theirs.bias is not None
    with torch.no_grad():
        theirs.weight.copy_(ours.weight[:, :, None, None])
        theirs.bias.copy_(ours.bias)
    x = torch.randn(2, 3, 4, 6)
    assert ours.weight.ndim == 2
    assert torch.equal(ours(x), theirs(x))


def test_patches_are_the_same_map_with_gradients_and_without() -> None:
    torch.manual_seed(0)
    ours = Patches(3, 4, 6).double()
    x = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    wanted = torch.einsum("oi,bihw->bohw", ours.weight, F.pixel_unshuffle(x - 0.5, 4))
    wanted = wanted + ours.bias[:, None, None]
    with torch.no_grad():
        assert torch.allclose(ours(x), wanted, rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours(x), wanted, rtol=1e-12, atol=1e-12)
