"""The paper's MNIST classifier, 412 parameters, for many independent runs in one pass.

    28 x 28 ── four 3x3 stride-2 convolutions of 3 channels, GELU after each ── 2 x 2 x 3 ── linear ── 10

Runs lie along the batch of products of matrices: on a CPU this is several times faster than one run at a time.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

CLASSES: Final = 10
CHANNELS: Final = 3
SHAPES: Final = (
    ((CHANNELS, 1, 3, 3), (CHANNELS,)),
    ((CHANNELS, CHANNELS, 3, 3), (CHANNELS,)),
    ((CHANNELS, CHANNELS, 3, 3), (CHANNELS,)),
    ((CHANNELS, CHANNELS, 3, 3), (CHANNELS,)),
    ((CLASSES, 4 * CHANNELS), (CLASSES,)),
)
"""Weight and bias of each layer, in the order in which they lie in a vector of parameters."""

PARAMETERS: Final = sum(math.prod(shape) for layer in SHAPES for shape in layer)
"""412."""

MEAN_INK: Final = 0.1307
"""Mean of the training images from 0 to 1: taken off every image."""


def as_inputs(images: Tensor) -> Tensor:
    """uint8 [N, 28, 28] → float32, the mean taken off."""
    return images.float() / 255 - MEAN_INK


def start(seeds: list[int]) -> Tensor:
    """Parameters [R, 412] of one run for each seed, uniform ±1/√fan-in as torch starts its layers."""
    runs = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for weight, bias in SHAPES:
            bound = 1 / math.sqrt(math.prod(weight[1:]))
            for shape in (weight, bias):
                parts.append(bound * (2 * torch.rand(math.prod(shape), generator=generator) - 1))
        runs.append(torch.cat(parts))
    return torch.stack(runs)


@functools.cache
def symmetries() -> Tensor:
    """int64 [1296, 412]: `parameters[:, table[i]]` is the same classifier with its channels in another order.

    Starts do not depend on the order of channels, so a gradient with its coordinates in any of these orders is as
    likely as the gradient itself: 1296 training vectors out of one.
    """
    sizes = [math.prod(shape) for layer in SHAPES for shape in layer]
    shapes = [shape for layer in SHAPES for shape in layer]
    parts = [
        part.view(shape)
        for part, shape in zip(torch.split(torch.arange(PARAMETERS), sizes), shapes, strict=True)
    ]
    orders = [list(order) for order in itertools.permutations(range(CHANNELS))]
    table = []
    for chosen in itertools.product(orders, repeat=len(SHAPES) - 1):
        inputs: list[int] = [0]
        moved = []
        for weight, bias, outputs in zip(parts[:-2:2], parts[1:-2:2], chosen, strict=True):
            moved += [weight[outputs][:, inputs], bias[outputs]]
            inputs = outputs
        moved += [parts[-2].view(CLASSES, CHANNELS, -1)[:, inputs], parts[-1]]
        table.append(torch.cat([part.flatten() for part in moved]))
    return torch.stack(table)


def logits(parameters: Tensor, images: Tensor) -> Tensor:
    """[G, B, 10] of float32 images [B, G, 28, 28], group g under `parameters[g]` of [G, 412]."""
    groups, batch = len(parameters), len(images)
    layers = iter(torch.split(parameters, [math.prod(shape) for layer in SHAPES for shape in layer], 1))
    # Convolutions as products of matrices, the batch innermost: with three channels, grouped convolutions spend
    # their time elsewhere (330 ms a step of 40 groups on one thread, this 250).
    x = images.permute(1, 2, 3, 0).unsqueeze(1)
    for shape, _ in SHAPES[:-1]:
        weight, bias = next(layers), next(layers)
        x = F.pad(x, (0, 0, 1, 1, 1, 1))
        size = (x.shape[2] - 3) // 2 + 1
        ends = [slice(first, first + 2 * size - 1, 2) for first in range(3)]
        taps = torch.stack([x[:, :, rows, columns] for rows in ends for columns in ends], 2)
        patches = taps.view(groups, 9 * shape[1], -1)
        x = torch.baddbmm(bias[:, :, None], weight.view(groups, shape[0], -1), patches)
        x = F.gelu(x).view(groups, shape[0], size, size, batch)
    features = x.flatten(1, 3).transpose(1, 2)
    weight, bias = next(layers), next(layers)
    return torch.baddbmm(bias[:, None], features, weight.view(groups, *SHAPES[-1][0]).transpose(1, 2))


def losses(parameters: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy [G] in nats; labels are int64 [B, G]."""
    scores = logits(parameters, images)
    every = F.cross_entropy(scores.flatten(0, 1), labels.T.flatten(), reduction="none")
    return every.view(len(parameters), -1).mean(1)


def gradients(parameters: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [G] and their gradients [G, 412] at `parameters` [G, 412]."""
    # A few groups' activations stay in a CPU's cache.
    groups = 4 if parameters.device.type == "cpu" else len(parameters)
    found: list[Tensor] = []
    slopes: list[Tensor] = []
    for start_of_part in range(0, len(parameters), groups):
        part = slice(start_of_part, start_of_part + groups)
        leaf = parameters[part].detach().requires_grad_()
        loss = losses(leaf, images[:, part], labels[:, part])
        found.append(loss.detach())
        slopes += torch.autograd.grad(loss.sum(), leaf)
    return torch.cat(found), torch.cat(slopes)


@torch.no_grad()
def accuracy(parameters: Tensor, images: Tensor, labels: Tensor, batch: int = 500) -> Tensor:
    """Share [R] of images [N, 28, 28] with labels [N] that each of `parameters` [R, 412] gets right."""
    right = torch.zeros(len(parameters), device=parameters.device)
    for x, y in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
        scores = logits(parameters, x[:, None].expand(-1, len(parameters), -1, -1))
        right += (scores.argmax(2) == y).float().sum(1)
    return right / len(images)
