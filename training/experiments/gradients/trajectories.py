"""Training runs of two workers and a server, many seeds at once.

    worker 1 ── gradient x ── compressor ──┐
                                           ├─ server: Adam on (x̂ + y) / 2
    worker 2 ── gradient y, sent whole ────┘

A run's start and batches depend on its seed alone, so that compressors are compared seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.experiments.gradients import classifier
from training.experiments.gradients.digits import Digits


class Compressor(Protocol):
    """What stands between worker 1 and the server."""

    key: str
    """What it is, settings and weights included: equal keys give equal runs."""

    @property
    def bits(self) -> float:
        """Mean bits of the messages so far."""
        ...

    def __call__(self, gradient: Tensor, side: Tensor, step: int) -> Tensor:
        """The server's x̂ [R, 412] of x `gradient` and y `side`, both [R, 412]; a run depends on its row alone."""
        ...


Watch = Callable[[int, Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""Called after every step as watch(step, parameters [R, 412], losses [R, 2], x, y, x̂ [R, 412])."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the classifier is trained."""

    steps: int = 1000
    batch_size: int = 300
    """Digits of one worker in one step."""
    learning_rate: float = 0.01
    """Of Adam, constant."""


class Workers:
    """Two workers with half of the digits each; every epoch goes through a worker's digits in a new order."""

    def __init__(self, digits: Digits, seeds: list[int], batch_size: int) -> None:
        self.digits, self.seeds, self.batch_size = digits, seeds, batch_size
        self.half = len(digits) // 2
        self.batches = self.half // batch_size
        if not self.batches:
            raise ValueError(f"a batch of {batch_size} is more than the {self.half} digits of a worker")
        self._epoch, self._order = -1, torch.empty(0)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, 2R, 28, 28] and labels [B, 2R] of a step; run r has columns 2r (worker 1) and 2r + 1."""
        epoch, position = divmod(step, self.batches)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.stack(
                [self._shuffled(seed, epoch, w) for seed in self.seeds for w in (0, 1)], 1
            )
        chosen = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        return self.digits.images[chosen], self.digits.labels[chosen]

    def _shuffled(self, seed: int, epoch: int, worker: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 10_007 + epoch) * 2 + worker + 1)
        order = torch.randperm(self.half, generator=generator) + worker * self.half
        return order.to(self.digits.labels.device)


def train(
    digits: Digits,
    seeds: list[int],
    config: TrainingConfig,
    compressor: Compressor | None,
    watch: Watch,
) -> Tensor:
    """Train one classifier for each seed; returns the parameters [R, 412].

    Args:
        digits: of both workers.
        seeds: one for each run.
        config: the dials.
        compressor: of worker 1's gradient; None sends it whole.
        watch: called after every step.
    """
    workers = Workers(digits, seeds, config.batch_size)
    parameters = classifier.start(seeds).to(digits.images.device).requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=config.learning_rate)
    for step in range(config.steps):
        images, labels = workers.batch(step)
        loss, both = classifier.gradients(parameters.repeat_interleave(2, 0), images, labels)
        gradient, side = both.view(len(seeds), 2, -1).unbind(1)
        received = gradient if compressor is None else compressor(gradient, side, step)
        parameters.grad = (received + side) / 2
        optimizer.step()
        watch(step, parameters.detach(), loss.view(-1, 2), gradient, side, received)
    return parameters.detach()


def collect_gradients(digits: Digits, seeds: list[int], config: TrainingConfig) -> Tensor:
    """Gradients of both workers along uncompressed runs: float32 [R, steps, 2, 412]."""
    kept = torch.empty(len(seeds), config.steps, 2, classifier.PARAMETERS, device=digits.images.device)

    def keep(
        step: int, parameters: Tensor, loss: Tensor, gradient: Tensor, side: Tensor, received: Tensor
    ) -> None:
        kept[:, step, 0], kept[:, step, 1] = gradient, side

    train(digits, seeds, config, None, keep)
    return kept
