"""Rounded numbers and their gradients."""

from __future__ import annotations

import torch

from training.integer import bounded, rounded


def test_numbers_round_halves_up_and_the_gradient_passes() -> None:
    x = torch.tensor([0.125, -0.125, 0.3, -0.3], requires_grad=True)
    steps = rounded(x, 2)
    assert steps.tolist() == [0.25, 0.0, 0.25, -0.25]
    torch.autograd.backward(steps.sum())
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 1]


def test_beyond_a_limit_only_the_way_back_has_a_gradient() -> None:
    x = torch.tensor([-2.0, -2.0, 0.0, 2.0, 2.0], requires_grad=True)
    clipped = bounded(x, -1, 1)
    assert clipped.tolist() == [-1, -1, 0, 1, 1]
    # Descent moves against the gradient: +1 moves down, -1 moves up.
    torch.autograd.backward(clipped, torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 1, 1, 0]
