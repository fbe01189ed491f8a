"""Who sees what: the encoder x alone, the decoder y only when it is present."""

from __future__ import annotations

from dataclasses import replace

import torch

from training.config import ModelConfig
from training.model import ConditionalVQVAE, RowAttention


def decode(model: ConditionalVQVAE, side: torch.Tensor, present: float, level: int = 1) -> torch.Tensor:
    torch.manual_seed(0)
    frame = torch.rand(1, 3, 32, 48)
    result = model(frame, side, torch.tensor([present]), torch.tensor([level]))
    decoded: torch.Tensor = result.frame.detach()
    return decoded


def test_the_decoder_uses_side_information_only_when_present(small_model: ConditionalVQVAE) -> None:
    one, other = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48)
    assert not torch.equal(decode(small_model, one, 1.0), decode(small_model, other, 1.0))
    assert torch.equal(decode(small_model, one, 0.0), decode(small_model, other, 0.0))


def test_the_encoder_alone_has_the_chosen_activation(small_config: ModelConfig) -> None:
    torch.manual_seed(0)
    gelu, relu = (
        ConditionalVQVAE(replace(small_config, encoder_activation=kind)) for kind in ("gelu", "relu")
    )
    relu.load_state_dict(gelu.state_dict())
    frame = torch.rand(1, 3, 32, 48)
    assert not torch.equal(gelu.encoder(frame), relu.encoder(frame))
    sides = [network.side_network(frame) for network in (gelu, relu)]
    assert torch.equal(sides[0].eighth, sides[1].eighth)
    latents = torch.randn(1, small_config.latent_dimension, 4, 6)
    decoded = [
        network.decoder(latents, torch.tensor([1]), sides[0], torch.ones(1)) for network in (gelu, relu)
    ]
    assert torch.equal(*decoded)


def test_each_rate_level_decodes_differently(small_model: ConditionalVQVAE) -> None:
    side = torch.rand(1, 3, 32, 48)
    assert not torch.equal(decode(small_model, side, 1.0, 0), decode(small_model, side, 1.0, 1))


def test_indices_of_a_level_are_the_first_stages(small_model: ConditionalVQVAE) -> None:
    latents = small_model.encoder(torch.rand(2, 3, 32, 48))
    quantized = small_model.quantizer(latents, torch.tensor([1, 2]))
    looked_up = small_model.quantizer.lookup(quantized.indices, torch.tensor([1, 2]))
    torch.testing.assert_close(looked_up, quantized.latents.detach(), atol=1e-5, rtol=1e-5)


def test_the_gradient_passes_straight_through(small_model: ConditionalVQVAE) -> None:
    latents = torch.randn(1, 8, 2, 3, requires_grad=True)
    small_model.quantizer(latents, torch.tensor([2])).latents.sum().backward()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, torch.ones_like(latents))


def test_row_attention_finds_a_shifted_row() -> None:
    """With queries and keys that copy the features, a position attends to where its own feature went."""
    attention = RowAttention(16, heads=1, reach=4)
    with torch.no_grad():
        for layer, gain in ((attention.query, 30.0), (attention.key, 1.0), (attention.value, 1.0)):
            layer.weight.copy_(gain * torch.eye(16))
            assert layer.bias is not None
            layer.bias.zero_()
        x = torch.nn.functional.normalize(
            torch.randn(2, 16, 3, 12, generator=torch.Generator().manual_seed(0)), dim=1
        )
        shifted = torch.roll(x, 3, dims=3)
        torch.testing.assert_close(attention(x, shifted), x, atol=0.05, rtol=0)
