"""One rank of `test_scale`: a small run in which code vectors die. `torchrun … scale_worker.py DIR`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.config import ModelConfig, TrainConfig
from training.data import TrainingData, render_drives
from training.model import ConditionalVQVAE
from training.paper.convolutional import ConvolutionalVQVAE, FamilyConfig
from training.paper.fitting import FitConfig, fit
from training.ranks import Ranks
from training.run import Run, train

MODEL = ModelConfig(
    channels=16,
    quarter_channels=8,
    encoder_blocks=1,
    side_blocks=1,
    decoder_blocks=1,
    latent_dimension=8,
    codebook_sizes=(16, 16),
)
CONFIG = TrainConfig(
    steps=14,
    batch_size=4,
    crop_height=32,
    crop_width=64,
    learning_rate_warmup_steps=4,
    synthetic_share=1.0,
    unquantized_steps=3,
)
DEATH, DEAD = 8, 3
"""Before this step this vector of every stage is moved away and forgotten: the update must replace it."""


def small_data() -> TrainingData:
    drives = render_drives(2, seed=5, width=160, height=80)
    return TrainingData([], drives, torch.device("cpu"))


def run_with_deaths(ranks: Ranks) -> tuple[list[float], list[Tensor], Run]:
    """Losses of every step, the replaced vector of each stage, and the run at its end."""
    run = Run(MODEL, CONFIG, torch.device("cpu"), ranks)
    assert isinstance(run.model, ConditionalVQVAE)
    losses, replaced = [], []
    for pending in train(run, small_data()):
        losses.append(pending.read().loss)
        codebooks = run.model.quantizer.codebooks
        if run.step == DEATH:
            for codebook in codebooks:
                codebook.vectors[DEAD] = 1000.0
                codebook.counts[DEAD] = 0.0
                codebook.sums[DEAD] = 0.0
        if run.step == DEATH + 1:
            replaced = [codebook.vectors[DEAD].clone() for codebook in codebooks]
    return losses, replaced, run


def paper_code(ranks: Ranks) -> tuple[tuple[float, ...], ConvolutionalVQVAE]:
    """Losses and weights of a small code of the paper after its steps."""
    torch.manual_seed(0)
    model = ConvolutionalVQVAE(FamilyConfig((8, 8, 8), 8, 1, bits=3, latent_dimension=4))

    def sample(step: int) -> tuple[Tensor, Tensor]:
        both = torch.rand(2, 4, 3, 16, 32, generator=torch.Generator().manual_seed(step)) - 0.5
        return both[0], both[1]

    config = FitConfig(steps=12, unquantized_steps=3, learning_rate=1e-3)
    return fit(model, sample, config, ranks=ranks).losses, model


def main(output: Path) -> None:
    ranks = Ranks.join("cpu")
    of_code, model = paper_code(ranks)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, output / f"paper-{ranks.rank}.safetensors", {"losses": json.dumps(of_code)})
    losses, replaced, run = run_with_deaths(ranks)
    tensors = {f"replaced.{s}": vector for s, vector in enumerate(replaced)}
    tensors |= {name: value.contiguous() for name, value in run.model.state_dict().items()}
    save_file(tensors, output / f"{ranks.rank}.safetensors", {"losses": json.dumps(losses)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
