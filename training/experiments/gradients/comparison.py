"""Compressors side by side: whole training runs, seed by seed, and gradients of runs that no code has seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.experiments.gradients import classifier
from training.experiments.gradients.codes import histories, relative_error
from training.experiments.gradients.digits import Split
from training.experiments.gradients.trajectories import Compressor, TrainingConfig, train


@dataclass(frozen=True)
class Curves:
    """One compressor's runs."""

    losses: Tensor
    """[R, steps]: mean cross entropy of both workers' batches before each step, nats."""
    errors: Tensor
    """[R, steps]: |x̂ − x|² / |x|²."""
    accuracies: Tensor
    """[R, marks]: share of the test digits, after the steps `marks`."""
    marks: Tensor
    """int64."""
    bits: float
    """Mean length of a message."""
    seconds: float


def curves(
    split: Split,
    seeds: list[int],
    config: TrainingConfig,
    compressor: Compressor | None,
    *,
    every: int,
    file: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Curves:
    """Train with a compressor (None sends x whole), or read `file` when it holds these runs already.

    Test accuracy is taken after each `every` steps.
    """
    settings = json.dumps(
        {"compressor": "none" if compressor is None else compressor.key, "seeds": seeds, "every": every}
        | asdict(config)
    )
    if file.exists():
        with safe_open(file, framework="pt") as opened:
            record = opened.metadata()
        if record.get("settings") == settings:
            return Curves(**load_file(file), bits=float(record["bits"]), seconds=float(record["seconds"]))
    losses = torch.empty(len(seeds), config.steps)
    errors = torch.empty(len(seeds), config.steps)
    marks: list[int] = []
    accuracies: list[Tensor] = []
    started = time.monotonic()

    def watch(
        step: int, parameters: Tensor, loss: Tensor, gradient: Tensor, side: Tensor, received: Tensor
    ) -> None:
        losses[:, step] = loss.mean(1).cpu()
        errors[:, step] = relative_error(received, gradient).cpu()
        if (step + 1) % every == 0:
            marks.append(step + 1)
            accuracies.append(classifier.accuracy(parameters, split.test.images, split.test.labels).cpu())
        progress(step + 1, config.steps)

    train(split.evaluate, seeds, config, compressor, watch)
    bits = 32.0 * classifier.PARAMETERS if compressor is None else compressor.bits
    found = Curves(
        losses, errors, torch.stack(accuracies, 1), torch.tensor(marks), bits, time.monotonic() - started
    )
    tensors = {name: getattr(found, name) for name in ("losses", "errors", "accuracies", "marks")}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors, file, metadata={"settings": settings, "bits": str(bits), "seconds": str(found.seconds)}
    )
    return found


LOUD = 40
"""Directions of a run in which its gradients vary most, of 412."""


@dataclass(frozen=True)
class Heldout:
    """Errors on gradients that no code was fitted on; [R], one for each run."""

    error: Tensor
    """Mean over steps of |x̂ − x|² / |x|²."""
    loud_error: Tensor
    """Energy of x̂ − x over that of x within the run's `LOUD` principal directions, in units of the history."""
    quiet_error: Tensor
    """The same in all other directions. Above 1, zeros would be nearer."""


@torch.no_grad()
def heldout(gradients: Tensor, compressor: Compressor) -> Heldout:
    """Errors of worker 1's gradients along uncompressed runs [R, steps, 2, 412]."""
    gradient = gradients[:, :, 0]
    received = torch.stack(
        [compressor(pairs[:, 0], pairs[:, 1], step) for step, pairs in enumerate(gradients.unbind(1))], 1
    )
    known = histories(gradients, gradients[:, 0].square().mean((0, 1)).sqrt())
    source, error = gradient / known, (received - gradient) / known
    directions = torch.linalg.eigh(source.mT @ source).eigenvectors.flip(2)
    along, off = (source @ directions).square().sum(1), (error @ directions).square().sum(1)
    return Heldout(
        relative_error(received, gradient).mean(1).cpu(),
        (off[:, :LOUD].sum(1) / along[:, :LOUD].sum(1)).cpu(),
        (off[:, LOUD:].sum(1) / along[:, LOUD:].sum(1)).cpu(),
    )
