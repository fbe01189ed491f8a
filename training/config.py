"""The dials of a codec and of a training run: small frozen dataclasses, stored as JSON in every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

Precision = Literal["fp32", "bf16"]
OptimizerKind = Literal["adamw", "muon"]
ActivationKind = Literal["gelu", "relu"]
QuantizerKind = Literal["residual_vq", "scalar"]
FlipKind = Literal["pair", "each"]
FaultKind = Literal["pair", "window", "black", "rows", "late"]


class JsonConfig:
    """Round trip to plain JSON, refusing unknown keys (a misspelt setting must not pass silently)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, tuples as lists."""
        values = asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from `to_dict` output. Raises ValueError on an unknown key."""
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        unknown = set(values) - names
        if unknown:
            raise ValueError(f"{cls.__name__} has no setting {sorted(unknown)}; it has {sorted(names)}")
        parts = {"scalar": ScalarConfig}
        return cls(
            **{
                k: tuple(v) if isinstance(v, list) else parts[k].from_dict(v) if isinstance(v, dict) else v
                for k, v in values.items()
            }
        )


@dataclass(frozen=True)
class ScalarConfig(JsonConfig):
    """Sizes of the scalar quantizer and of its rate model."""

    levels: int = 8
    bound: int = 15
    """Indices lie in [-bound, bound]."""
    finest_gain: float = 4.0
    """Gain of the highest level before training, for latents of unit size; each level below has 1/1.4 of it."""
    hidden: int = 96
    """Width of the rate model's networks."""
    blocks: int = 2


@dataclass(frozen=True)
class ModelConfig(JsonConfig):
    """A conditional VQ-VAE of the paper's 8x family, small enough for a CPU."""

    quantizer: QuantizerKind = "residual_vq"
    """Codebooks in residual stages and a prior afterwards, or a scalar quantizer whose rate is in the loss."""

    channels: int = 128
    """Width of the decoder's work at 1/8 resolution."""
    encoder_channels: int | None = None
    """Width of the encoder; None: that of the decoder."""
    quarter_channels: int = 64
    """Width of all work at 1/4 resolution (decoder only)."""
    encoder_activation: ActivationKind = "gelu"
    """ReLU is free in 8-bit integers, where GELU takes a fifth of the encoder's time."""
    encoder_blocks: int = 6
    side_blocks: int = 3
    decoder_blocks: int = 4
    """Blocks after the side information is merged, at 1/8 and again at 1/4 resolution."""
    latent_dimension: int = 32
    """Length of a codebook vector (64 in the paper), or indices of the scalar quantizer at a position."""
    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    """Codebook size of each residual stage; rate level i sends the first i + 1 stages."""
    alignment: bool = True
    """Row attention from the first decode of x to features of y; without it y is concatenated as in the paper."""
    gate: bool = False
    """Learned weights, for each position and channel, of what comes from y: a wrong y should count for nothing."""
    scalar: ScalarConfig = ScalarConfig()
    """Of the scalar quantizer alone."""

    @property
    def stride(self) -> int:
        """Pixels of a frame to one position of the index grid, each way."""
        return 8

    @property
    def stages(self) -> int:
        """Indices at each position: residual stages, or planes of a scalar quantizer."""
        return len(self.codebook_sizes) if self.quantizer == "residual_vq" else self.latent_dimension

    @property
    def levels(self) -> int:
        """Rate levels."""
        return len(self.codebook_sizes) if self.quantizer == "residual_vq" else self.scalar.levels


@dataclass(frozen=True)
class TrainConfig(JsonConfig):
    """One training run. Everything that changes the losses is here, so that a resumed run is the same run."""

    steps: int = 2500
    batch_size: int = 8
    """Samples a step, of all processes together."""
    crop_height: int = 128
    crop_width: int = 256
    learning_rate: float = 1e-3
    """Of AdamW."""
    optimizer: OptimizerKind = "adamw"
    """Muon steps the matrices of the codec (1x1 convolutions) and AdamW the rest, or AdamW steps all."""
    muon_learning_rate: float = 2e-3
    """For updates of the size that AdamW's have (`match_rms_adamw`)."""
    gain_learning_rate: float = 1e-2
    """Of the scalar quantizer's gains, which are logarithms and have far to go: at AdamW's rate a short run ends
    near the gains it began with."""
    rate_learning_rate: float = 4e-3
    """Of the rate model, whose rounded weights take small steps for none: with AdamW's rate the bits of a short
    run are 10 % more at equal PSNR."""
    learning_rate_warmup_steps: int = 100
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    commitment: float = 0.25
    """Weight of the commitment loss (paper, stereo: 0.25)."""
    distortion_weight: float = 100.0
    """Weight of the MSE on [0, 1] pixels: puts it on the commitment loss's scale (latents of unit size)."""
    lowest_lambda: float = 1.5e-4
    """Scalar quantizer: weight of the MSE on 0..255 against bits a pixel at level 0; levels lie evenly in its
    logarithm."""
    highest_lambda: float = 6e-3
    """The same at the highest level."""
    ms_ssim_share: float = 0.0
    """Scalar quantizer: share of the distortion that is 1 - MS-SSIM, times `scalar_codec.MS_SSIM_SCALE`, and not
    MSE."""
    side_dropout: float = 0.25
    """Share of samples decoded without side information; 1.0 trains the twin that never sees it."""
    faulty_share: float = 0.0
    """Share of the samples whose y is one of `faults`."""
    faults: tuple[FaultKind, ...] = ("pair", "window", "black")
    """Each as likely: another pair's view, another window of this pair, black, some rows higher or lower as in a
    rig that is not rectified, and zoomed as if it were a second early or late."""
    flips: FlipKind = "pair"
    """A mirrored pair has its views swapped, so that disparities keep their sign; or, as in the paper's own code,
    each view is mirrored by a coin of its own and half of the pairs show no common scene."""
    synthetic_share: float = 0.15
    """Share of samples from the synthetic drive; 1.0 needs no pairs at all."""
    unquantized_steps: int = 200
    """Steps before the codebooks start from k-means on the encoder's outputs."""
    weights_ema: float = 0.998
    """Decay of the averaged weights that are validated and exported."""
    precision: Precision = "fp32"
    """What the networks compute in: float32, or bfloat16 autocast; quantizer and losses are always float32."""
    seed: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """As `JsonConfig.from_dict`. Settings that came later are what they were before: AdamW's rate for all."""
        if "learning_rate" in values:
            rate = values["learning_rate"]
            values = {"gain_learning_rate": rate, "rate_learning_rate": rate} | values
        return super().from_dict(values)
