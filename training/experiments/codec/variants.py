"""The variants: the codec with all its parts, and each with something left out or done in the paper's way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from training.config import FaultKind, ModelConfig, Precision, ScalarConfig, TrainConfig
from training.scalar import GAIN_RATIO
from training.scalar_codec import distortion_weights

WHOLE: Final = "all parts"
LONGER: Final = "all parts, crops of all the paper's codes"
"""The paper trains a network for each rate: one for all rates that sees as many crops as those together."""
AFTERWARDS: Final = "codebooks, prior afterwards"
"""As in the paper: residual codebooks that learn for distortion alone, and a prior of their indices afterwards."""
BLIND: Final = "never sees y"
"""The twin: what the codec would be without side information, at the same size and budget."""
SINGLE: Final = "one rate, level "
"""Followed by the number of the level of `WHOLE` whose λ it has."""


FAULTS: Final[tuple[FaultKind, ...]] = ("pair", "window", "black", "rows", "late")


@dataclass(frozen=True)
class Dials:
    """What a run of the recipe is made of."""

    steps: int = 1000
    batch_size: int = 8
    seeds: int = 1
    levels: int = 8
    lowest_lambda: float = 3e-5
    highest_lambda: float = 2.4e-2
    single_levels: tuple[int, ...] = (2, 5)
    """Levels that models for one rate are trained for."""
    channels: int = ModelConfig.channels
    quarter_channels: int = ModelConfig.quarter_channels
    encoder_channels: int = 112
    latent_dimension: int = ModelConfig.latent_dimension
    prior_hidden: int = ScalarConfig.hidden
    codebook: int = 256
    """Vectors of each of three residual stages."""
    prior_steps: int = 1200
    """Of the prior that is learned afterwards, and of fitting a rate model to rounded indices."""
    protocol_views: int = 8
    """Views like `kitti128` of each frame that it is trained on."""
    precision: Precision = "fp32"
    paper_bits: tuple[int, ...] = (4, 7, 10)
    """Bits of an index of each of the paper's codes."""
    paper_width: float = 0.18
    """Of the paper's 8x: 6.2 and 23 kMAC a pixel, where ours takes 5.4 and 23.5."""
    paper_layers: int = 4
    paper_batch_size: int = 2
    """Its steps are as many times more."""
    paper_prior_dimension: int = 64
    paper_prior_steps: int = 900
    paper_prior_batches: int = 800
    """Batches of crops whose indices its prior learns from."""


SMOKE: Final = Dials(
    steps=6,
    batch_size=2,
    levels=3,
    single_levels=(1,),
    channels=8,
    quarter_channels=8,
    encoder_channels=8,
    latent_dimension=4,
    prior_hidden=8,
    codebook=16,
    prior_steps=2,
    protocol_views=1,
    paper_bits=(2, 3),
    paper_width=1 / 12,
    paper_layers=1,
    paper_prior_dimension=16,
    paper_prior_steps=2,
    paper_prior_batches=2,
)


@dataclass(frozen=True)
class Variant:
    """One codec to train."""

    name: str
    model: ModelConfig
    train: TrainConfig


def variants(dials: Dials, *, synthetic: bool) -> list[Variant]:
    """All of them, `WHOLE` first. `synthetic`: there are no pairs but those of the drive."""
    scalar = ScalarConfig(levels=dials.levels, hidden=dials.prior_hidden)
    model = ModelConfig(
        quantizer="scalar",
        channels=dials.channels,
        quarter_channels=dials.quarter_channels,
        encoder_channels=dials.encoder_channels,
        latent_dimension=dials.latent_dimension,
        gate=True,
        scalar=scalar,
    )
    train = TrainConfig(
        steps=dials.steps,
        batch_size=dials.batch_size,
        optimizer="muon",
        learning_rate_warmup_steps=min(100, dials.steps // 2),
        lowest_lambda=dials.lowest_lambda,
        highest_lambda=dials.highest_lambda,
        side_dropout=0.2,
        faulty_share=0.2,
        faults=FAULTS,
        synthetic_share=1.0 if synthetic else 0.0,
        unquantized_steps=0,
        precision=dials.precision,
    )
    stages = replace(model, quantizer="residual_vq", codebook_sizes=(dials.codebook,) * 3)
    made = [
        Variant(WHOLE, model, train),
        Variant(LONGER, model, replace(train, steps=dials.steps * len(dials.paper_bits))),
        Variant("no alignment", replace(model, alignment=False), train),
        Variant("no gate, no faults", replace(model, gate=False), replace(train, faulty_share=0.0)),
        Variant("each view flipped by itself", model, replace(train, flips="each")),
        Variant(BLIND, model, replace(train, side_dropout=1.0, faulty_share=0.0)),
        Variant(AFTERWARDS, stages, replace(train, unquantized_steps=min(200, dials.steps // 2))),
    ]
    weights = distortion_weights(train, dials.levels).tolist()
    for level in dials.single_levels:
        of_level = replace(
            scalar, levels=1, finest_gain=scalar.finest_gain * GAIN_RATIO ** (level + 1 - dials.levels)
        )
        made.append(
            Variant(
                f"{SINGLE}{level}",
                replace(model, scalar=of_level),
                replace(train, lowest_lambda=weights[level], highest_lambda=weights[level]),
            )
        )
    return made
