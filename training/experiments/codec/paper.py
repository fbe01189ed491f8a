"""The paper's 8x network at our codec's cost, on crops drawn alike: one network and one prior for each rate.

All widths are scaled until encoder and decoder take about the multiplications of ours (`Dials.paper_width`);
depth, codebook, loss and prior are the paper's way. Flips are mended: a mirrored pair has its views swapped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ndsc.codec.bitstream import PAYLOAD_CRC_BYTES
from ndsc.codec.frames import Frame, to_float, to_uint8
from ndsc.evaluate.metrics import psnr
from training.config import TrainConfig
from training.data import Pair, TrainingData, fingerprint
from training.experiments.codec.measured import KINDS, Kind
from training.experiments.codec.variants import Dials
from training.experiments.recipe import Advance, RecipeError
from training.paper import prior
from training.paper.convolutional import FAMILIES, ConvolutionalVQVAE
from training.paper.fitting import FitConfig, fit, mean_squared_error
from training.report.bd_rate import Curve

PAPER: Final = "the paper's 8x at our cost"
DISTORTION_WEIGHT: Final = 50.0
"""Of the MSE beside 0.25 times the commitment loss; the paper has 1, with which short runs learn little
(docs/LOG.md)."""
WARM_UP_SHARE: Final = 20
"""One step of so many warms up, and before as many more the codebook starts."""

CROP_SETTINGS: Final = (
    "steps",
    "batch_size",
    "crop_height",
    "crop_width",
    "side_dropout",
    "faulty_share",
    "flips",
    "synthetic_share",
    "seed",
)
"""Of `TrainConfig`, those that decide which crops a step sees: the others are not of this network."""


@dataclass(frozen=True)
class PaperCode:
    """One of its codes, ready to code."""

    bits: int
    model: ConvolutionalVQVAE
    prior: prior.CausalTransformer
    seconds: float
    """Of training the code."""


def train_paper(
    bits: int,
    seed: int,
    dials: Dials,
    pairs: Sequence[Pair],
    folder: Path,
    advance: Advance,
    *,
    synthetic: bool,
    device: torch.device,
) -> PaperCode:
    """Train the code whose indices have `bits`, then its prior; goes on with an unfinished run in `folder`.

    Raises CheckpointError when `folder` holds a run of other settings or data.
    """
    small = dials.paper_batch_size
    crops = TrainConfig(
        steps=dials.steps * dials.batch_size // small,
        batch_size=small,
        side_dropout=0.0,
        synthetic_share=1.0 if synthetic else 0.0,
        seed=seed,
    )
    data = TrainingData([] if synthetic else pairs, pairs if synthetic else [], device)
    family = replace(FAMILIES["8x"].scaled(dials.paper_width, dials.paper_layers), bits=bits)
    torch.manual_seed(seed)
    model = ConvolutionalVQVAE(family).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def sample(step: int) -> tuple[Tensor, Tensor]:
        batch = data.batch(crops, 1, step)
        return batch.source - 0.5, batch.side - 0.5

    settings = FitConfig(
        steps=crops.steps,
        learning_rate=1e-3,
        warm_up_steps=crops.steps // WARM_UP_SHARE,
        unquantized_steps=crops.steps // WARM_UP_SHARE,
        seed=seed,
    )
    fitted = fit(
        model,
        sample,
        settings,
        distortion=lambda output, source: DISTORTION_WEIGHT * mean_squared_error(output, source),
        directory=folder,
        made_with={
            "crops": {name: crops.to_dict()[name] for name in CROP_SETTINGS},
            "data": fingerprint(pairs),
            "distortion_weight": DISTORTION_WEIGHT,
            "precision": dials.precision,
        },
        precision=dials.precision,
        progress=advance,
    )
    model.cpu().eval()
    transformer = _learn_prior(model, sample, settings.steps, dials, folder / "prior")
    return PaperCode(bits, model, transformer, fitted.seconds)


def _learn_prior(
    model: ConvolutionalVQVAE,
    sample: Callable[[int], tuple[Tensor, Tensor]],
    first: int,
    dials: Dials,
    folder: Path,
) -> prior.CausalTransformer:
    """The paper's transformer, on the indices of crops that follow those of training."""
    network = prior.TransformerConfig(
        codebook_size=2**model.config.bits,
        dimension=dials.paper_prior_dimension,
        blocks=2,
        feed_forward=4 * dials.paper_prior_dimension,
        dropout=0.0,
    )
    settings = prior.PriorFitConfig(
        steps=dials.paper_prior_steps,
        batch_size=8,
        learning_rate=2e-3,
        warm_up_steps=dials.paper_prior_steps // 20,
    )
    made_of = {"network": network.to_dict(), "fit": settings.to_dict(), "batches": dials.paper_prior_batches}
    made_with = json.loads(json.dumps(made_of))
    finished = folder / "finished.json"
    if finished.exists() and json.loads(finished.read_text()) == made_with:
        return prior.load(folder)
    finished.unlink(missing_ok=True)  # what it names is overwritten from here on
    batches = [sample(first + i)[0].cpu() for i in range(dials.paper_prior_batches)]
    grids = np.concatenate([_indices(model, batch) for batch in batches])
    held_out = max(1, len(grids) // 20)
    training = grids[held_out:]

    def draw(step: int) -> prior.Grids:
        rng = np.random.default_rng((settings.seed, step))
        return training[rng.integers(len(training), size=settings.batch_size)]

    torch.manual_seed(settings.seed)
    made = prior.fit_prior(
        prior.CausalTransformer(network), draw, {"held out": grids[:held_out]}, settings, folder
    )
    finished.write_text(json.dumps(made_with) + "\n")
    return made


@torch.no_grad()
def _indices(model: ConvolutionalVQVAE, source: Tensor) -> prior.Grids:
    """Of x [B, 3, H, W] in [-0.5, 0.5]: uint16 [B, 1, h, w]."""
    return model.quantizer(model.encode(source, source)).indices.numpy().astype(np.uint16)  # type: ignore[no-any-return]


@torch.no_grad()
def measure_paper(codes: Sequence[PaperCode], pairs: Sequence[tuple[Frame, Frame]]) -> dict[Kind, Curve]:
    """Code every left frame uint8 [128, 256, 3] with each code, one column each; decode the bytes with each y.

    Without y the decoder sees mid-grey, as in the paper's separate mode. Rates count a checksum, as ours do.
    Raises RecipeError when bytes do not give their indices back.
    """
    left, right = (torch.from_numpy(np.stack([to_float(views[i]) for views in pairs])) - 0.5 for i in (0, 1))
    seen = {"right": right, "none": torch.zeros_like(right), "wrong": right.roll(-1, 0)}
    rates = np.empty((len(pairs), len(codes)))
    qualities = {kind: np.empty_like(rates) for kind in KINDS}
    for column, code in enumerate(codes):
        indices = _indices(code.model, left)
        sent = prior.encode(code.prior, indices)
        received = prior.decode(code.prior, sent, *indices.shape[2:])
        if not np.array_equal(received, indices):
            raise RecipeError(f"{PAPER}, {code.bits} bits: the bytes do not give the indices back")
        rates[:, column] = [8 * (len(coded) + PAYLOAD_CRC_BYTES) / left[0, 0].numel() for coded in sent]
        latents = code.model.quantizer.lookup(
            torch.from_numpy(received.astype(np.int64)), torch.ones(len(pairs), dtype=torch.int64)
        )
        for kind in KINDS:
            outputs = code.model.decode(latents, seen[kind]) + 0.5
            for i, (frame, _) in enumerate(pairs):
                qualities[kind][i, column] = psnr(frame, to_uint8(outputs[i].numpy()))
    images = tuple(map(str, range(len(pairs))))
    return {kind: Curve(PAPER, images, rates, quality) for kind, quality in qualities.items()}
