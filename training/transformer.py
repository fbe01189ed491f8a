"""The paper's latent prior, as the yardstick: `python -m training.transformer INDICES --validation … -o DIR`.

The network is `training.paper.prior`. Two settings differ from the paper's, in its favour: no dropout, since our
runs end before it could overfit, and a learning rate of 1e-3 in place of 3e-4, which gets further in fewer steps.
Its -Σ log2 p is the rate that the integer prior is measured against.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import Progress

from training.indices import WINDOW, GridSampler, IndexGrids, validation_batches
from training.paper.prior import CausalTransformer, Grids, PriorFitConfig, TransformerConfig, fit_prior

PROTOCOL_SHARE = 2 / 3
"""Share of samples that are views of the `kitti128` kind; the others are windows of whole frames."""


def main(
    indices: Annotated[Path, typer.Argument(help="Training grids of training.indices.")],
    validation: Annotated[Path, typer.Option(help="Validation grids of training.indices.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for weights and log.")],
    stage: Annotated[int, typer.Option(help="Residual stage to predict.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 2400,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes one for each core.")] = 0,
) -> None:
    """Train the reference prior of one stage."""
    if threads:
        torch.set_num_threads(threads)
    grids, held_out = IndexGrids.load(indices), IndexGrids.load(validation)
    size = 1 + max(int(g[stage].max()) for g in grids.grids)
    held = {name: batch.indices for name, batch in validation_batches(held_out, 160).items()}
    config = PriorFitConfig(steps, batch_size=16, learning_rate=1e-3, warm_up_steps=200)
    sampler = GridSampler(grids, WINDOW, PROTOCOL_SHARE)

    def sample(step: int) -> Grids:
        return sampler.sample(np.random.default_rng((config.seed, step)), config.batch_size).indices

    torch.manual_seed(config.seed)
    model = CausalTransformer(TransformerConfig(max(2, size), WINDOW, stage, dropout=0.0))
    with Progress() as bars:
        bar = bars.add_task("prior", total=steps)
        fit_prior(
            model, sample, held, config, output, progress=lambda done, _: bars.update(bar, completed=done)
        )
    sys.stdout.write((output / "log.jsonl").read_text())


if __name__ == "__main__":
    try:
        typer.run(main)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
