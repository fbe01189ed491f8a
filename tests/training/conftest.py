"""Shared pieces of the training tests: a codec small enough to build and export in seconds."""

from __future__ import annotations

import pytest
import torch

from training.config import ModelConfig
from training.model import ConditionalVQVAE


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    return ModelConfig(
        channels=16,
        quarter_channels=8,
        encoder_blocks=1,
        side_blocks=1,
        decoder_blocks=1,
        latent_dimension=8,
        codebook_sizes=(16, 32),
    )


@pytest.fixture(scope="session")
def small_model(small_config: ModelConfig) -> ConditionalVQVAE:
    torch.manual_seed(1)
    model = ConditionalVQVAE(small_config)
    latents = model.encoder(torch.rand(4, 3, 64, 64)).detach()
    model.quantizer.start_from_kmeans(latents, torch.Generator().manual_seed(0))
    return model.eval()
