"""The dials of the stereo experiment: the paper's, and smaller ones for a processor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

from training.config import JsonConfig
from training.experiments.recipe import RecipeError
from training.paper.convolutional import FAMILIES, FamilyConfig
from training.paper.fitting import FitConfig
from training.paper.prior import PriorFitConfig, TransformerConfig

FRAME_HEIGHT, FRAME_WIDTH = 128, 256


@dataclass(frozen=True)
class StereoConfig(JsonConfig):
    """One preset: what all points of a curve share."""

    width: float = 1.0
    """All channel counts times this."""
    layers: int | None = None
    """Residual layers at each resolution; None: the family's own."""
    random_views: int = 0
    """Random windows of each training pair beside the protocol's own (paper: none)."""
    batch_size: int = 32
    steps: int = 24_625
    """Paper: 500 epochs of 1576 pairs."""
    learning_rate: float = 3e-4
    cosine: bool = False
    distortion_weight: float = 1.0
    """Weight of the MSE beside 0.25 times the commitment loss (paper: 1)."""
    published_codebook: bool = False
    """The reference's codebook: random start, dead vectors stay dead."""
    published_flips: bool = False
    """The reference's flips: each frame of a pair by its own coin."""
    prior_dimension: int = 128
    prior_blocks: int = 4
    prior_dropout: float = 0.1
    prior_window: tuple[int, int] | None = None
    """Rows and columns that the prior sees at once; None is the whole grid, as in the paper."""
    prior_steps: int = 4925
    """Paper: 100 epochs."""
    prior_batch_size: int = 32
    prior_learning_rate: float = 3e-4
    prior_warm_up_steps: int = 2000
    seed: int = 0


PRESETS: Final = {
    "paper": StereoConfig(),
    "cpu": StereoConfig(
        width=1 / 3,
        layers=2,
        random_views=4,
        batch_size=2,
        steps=1200,
        learning_rate=1e-3,
        cosine=True,
        distortion_weight=50.0,
        prior_dimension=64,
        prior_blocks=2,
        prior_dropout=0.0,
        prior_window=(16, 32),
        prior_steps=900,
        prior_batch_size=8,
        prior_learning_rate=2e-3,
        prior_warm_up_steps=50,
    ),
    "smoke": StereoConfig(
        width=1 / 8,
        layers=1,
        batch_size=2,
        steps=70,
        learning_rate=3e-3,
        cosine=True,
        prior_dimension=16,
        prior_blocks=1,
        prior_window=(8, 16),
        prior_steps=40,
        prior_batch_size=8,
        prior_learning_rate=1e-2,
        prior_warm_up_steps=5,
    ),
}


@dataclass(frozen=True)
class Point:
    """One code of the figure: a family and the bits of an index."""

    family: str
    bits: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From FAMILY:BITS, like 8x:3. Raises RecipeError."""
        family, _, bits = text.partition(":")
        if family not in FAMILIES or not bits.isdecimal() or not 1 <= int(bits) <= 10:
            raise RecipeError(
                f"{text!r} is no point of the curve: FAMILY:BITS with {', '.join(FAMILIES)} and 1 to 10 bits"
            )
        return cls(family, int(bits))

    @property
    def name(self) -> str:
        """Names the folder of its run."""
        return f"{self.family}-{self.bits}bit"

    def network(self, config: StereoConfig) -> FamilyConfig:
        """The code's networks."""
        family = FAMILIES[self.family]
        layers = family.residual_layers if config.layers is None else config.layers
        if (config.width, layers) != (1.0, family.residual_layers):
            family = family.scaled(config.width, layers)
        return replace(family, bits=self.bits)

    def grid(self) -> tuple[int, int]:
        """Rows and columns of the index grid."""
        stride = FAMILIES[self.family].stride
        return FRAME_HEIGHT // stride, FRAME_WIDTH // stride

    def fit(self, config: StereoConfig) -> FitConfig:
        """How the code is trained."""
        return FitConfig(
            steps=config.steps,
            learning_rate=config.learning_rate,
            warm_up_steps=min(50, config.steps // 10),
            unquantized_steps=min(50, config.steps // 2),
            cosine=config.cosine,
            published_codebook=config.published_codebook,
            seed=config.seed,
        )

    def prior(self, config: StereoConfig) -> TransformerConfig:
        """The prior's network; the paper's for 2x is half as deep, with two heads."""
        rows, columns = self.grid()
        if config.prior_window:
            rows, columns = min(rows, config.prior_window[0]), min(columns, config.prior_window[1])
        small = self.family == "2x"
        return TransformerConfig(
            codebook_size=2**self.bits,
            grid=(rows, columns),
            dimension=config.prior_dimension,
            heads=2 if small else 4,
            blocks=min(2, config.prior_blocks) if small else config.prior_blocks,
            feed_forward=4 * config.prior_dimension,
            dropout=config.prior_dropout,
        )

    def prior_fit(self, config: StereoConfig) -> PriorFitConfig:
        """How the prior is trained."""
        return PriorFitConfig(
            steps=config.prior_steps,
            batch_size=config.prior_batch_size,
            learning_rate=config.prior_learning_rate,
            warm_up_steps=config.prior_warm_up_steps,
            validate_every=max(1, config.prior_steps // 10),
            seed=config.seed,
        )


PAPER_POINTS: Final = tuple(
    Point(family, bits)
    for family, all_bits in {"8x": (1, 2, 3, 8), "4x": (3, 4, 6), "2x": (3, 4)}.items()
    for bits in all_bits
)
"""The paper's nine models."""
