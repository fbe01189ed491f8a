"""A scalar codec small enough to train in seconds, and how."""

from __future__ import annotations

from training.config import ModelConfig, ScalarConfig, TrainConfig

MODEL = ModelConfig(
    quantizer="scalar",
    channels=16,
    encoder_channels=24,
    quarter_channels=8,
    encoder_blocks=1,
    side_blocks=1,
    decoder_blocks=1,
    latent_dimension=6,
    gate=True,
    scalar=ScalarConfig(levels=3, hidden=16, blocks=1),
)
CONFIG = TrainConfig(
    steps=60,
    batch_size=4,
    crop_height=32,
    crop_width=64,
    learning_rate=3e-3,
    learning_rate_warmup_steps=4,
    synthetic_share=1.0,
    unquantized_steps=0,
    weights_ema=0.9,
)
