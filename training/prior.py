"""Training the integer latent prior: `python -m training.prior INDICES --validation INDICES -o DIR`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import nn

from ndsc.codec.errors import NdscError
from training.indices import WINDOW, GridBatch, GridSampler, IndexGrids, validation_batches
from training.labels import label_order, relabelled
from training.prior_network import LatentPrior, PriorConfig


@torch.no_grad()
def bits_per_index(model: LatentPrior, batch: GridBatch) -> npt.NDArray[np.float64]:
    """-log2 p of each stage's indices and grid: float64 [S, B]."""
    nats: npt.NDArray[np.float64] = model(batch).double().numpy()
    return nats / math.log(2)


def save(model: LatentPrior, order: Sequence[Sequence[int]], directory: Path) -> None:
    """Keep weights, settings and label order."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), directory / "prior.safetensors")
    facts = {"config": model.config.to_dict(), "order": [list(o) for o in order]}
    (directory / "prior.json").write_text(json.dumps(facts) + "\n")


def load(directory: Path) -> tuple[LatentPrior, list[list[int]]]:
    """Read what `save` wrote."""
    facts = json.loads((directory / "prior.json").read_text())
    model = LatentPrior(PriorConfig.from_dict(facts["config"]))
    model.load_state_dict(load_file(directory / "prior.safetensors"))
    return model, facts["order"]


def train(
    grids: IndexGrids,
    held_out: IndexGrids,
    config: PriorConfig,
    output: Path,
    *,
    start: Path | None = None,
    stages: Sequence[int] | None = None,
) -> LatentPrior:
    """Train, and log the curve to log.jsonl.

    Args:
        grids: training grids.
        held_out: validation grids.
        config: settings.
        output: directory for weights, label order and log.
        start: output of an earlier run to go on from, with its labels and the weights that have the same shape;
            new labels and weights without.
        stages: stages to train, the others stay as they are; all without.
    """
    torch.manual_seed(config.seed)
    model = LatentPrior(config)
    if start is not None:
        earlier, order = load(start)
        own = model.state_dict()
        fitting = {
            name: value
            for name, value in earlier.state_dict().items()
            if name in own and value.shape == own[name].shape
        }
        model.load_state_dict(fitting, strict=False)
    else:
        order = label_order(grids.grids[::7], config.codebook_sizes)
    grids, held_out = relabelled(grids, order), relabelled(held_out, order)
    sampler = GridSampler(grids, WINDOW, config.protocol_share)
    validation = validation_batches(held_out, config.validation_samples)
    if start is None:
        model.start_tables(
            [sampler.sample(np.random.default_rng((config.seed, 1, i)), 64) for i in range(64)]
        )
    trained = list(range(len(model.stages))) if stages is None else list(stages)
    parameters = [p for s in trained for p in model.networks[s].parameters()]
    if 0 in trained:
        parameters += list(model.tables.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=1e-4)
    output.mkdir(parents=True, exist_ok=True)
    losses: list[npt.NDArray[np.float32]] = []
    started = time.monotonic()
    with (output / "log.jsonl").open("w") as log:
        for step in range(config.steps):
            warm = min(1.0, (step + 1) / config.warm_up_steps)
            for settings in optimizer.param_groups:
                settings["lr"] = (
                    config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
                )
            batch = sampler.sample(np.random.default_rng((config.seed, 0, step)), config.batch_size)
            nats = model(batch, only=trained)
            optimizer.zero_grad(set_to_none=True)
            nats.mean(1).sum().backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(nats.detach().mean(1).numpy())
            if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                line: dict[str, Any] = {"step": step + 1, "seconds": round(time.monotonic() - started, 1)}
                line["train_bits_per_index"] = (np.mean(losses, 0) / math.log(2)).round(4).tolist()
                for name, held in validation.items():
                    line[f"{name}_bits_per_index"] = bits_per_index(model, held).mean(1).round(4).tolist()
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(line, flush=True)
                losses = []
                save(model, order, output)
    return model


def main(
    indices: Annotated[Path, typer.Argument(help="Training grids of training.indices.")],
    validation: Annotated[Path, typer.Option(help="Validation grids of training.indices.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for weights and log.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = PriorConfig.steps,
    floats: Annotated[
        bool, typer.Option("--floats", help="Train in floats, to tell what integers cost.")
    ] = False,
    start: Annotated[Path | None, typer.Option(help="Go on from an earlier run's output.")] = None,
    stage: Annotated[list[int] | None, typer.Option(help="Stages to train; all without.")] = None,
    learning_rate: Annotated[float, typer.Option(help="The largest.")] = PriorConfig.learning_rate,
    batch_size: Annotated[int, typer.Option(help="Samples a step.")] = PriorConfig.batch_size,
    seed: Annotated[int, typer.Option(help="Of samples and weights.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes one for each core.")] = 0,
) -> None:
    """Train the latent prior of a codec on its indices."""
    if threads:
        torch.set_num_threads(threads)
    grids, held_out = IndexGrids.load(indices), IndexGrids.load(validation)
    sizes = [1 + max(int(grid[s].max()) for grid in grids.grids) for s in range(len(grids.grids[0]))]
    config = PriorConfig(
        codebook_sizes=tuple(1 << max(1, (k - 1).bit_length()) for k in sizes),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        quantize=not floats,
        seed=seed,
    )
    train(grids, held_out, config, output, start=start, stages=stage)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (OSError, ValueError, NdscError) as error:
        sys.exit(f"error: {error}")
