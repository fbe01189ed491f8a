"""Codebooks: k-means start, EMA, dead-code reset, residual stages."""

from __future__ import annotations

import pytest
import torch

from training.quantizer import Codebook, ResidualQuantizer


def clusters(centres: torch.Tensor, each: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (
        centres[:, None] + spread * torch.randn(len(centres), each, centres.shape[1], generator=generator)
    ).reshape(-1, centres.shape[1])


def test_kmeans_start_uses_every_vector() -> None:
    codebook = Codebook(16, 4)
    latents = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)) * 5 + 3
    codebook.start_from_kmeans(latents, torch.Generator().manual_seed(0))
    assert torch.bincount(codebook.nearest(latents), minlength=16).min() > 0
    error = (latents - codebook.vectors[codebook.nearest(latents)]).square().mean()
    assert error < 0.5 * latents.var(0).mean()


def test_kmeans_needs_as_many_latents_as_vectors() -> None:
    with pytest.raises(ValueError, match="needs 16 latents, got 3"):
        Codebook(16, 4).start_from_kmeans(torch.randn(3, 4), torch.Generator())


def test_nearest_is_the_nearest() -> None:
    codebook = Codebook(32, 6)
    latents = torch.randn(200, 6)
    expected = torch.cdist(latents, codebook.vectors).argmin(1)
    assert torch.equal(codebook.nearest(latents), expected)


def test_ema_moves_vectors_to_their_latents() -> None:
    centres = torch.tensor([[-4.0, 0.0], [4.0, 1.0]])
    latents = clusters(centres, 100, 0.1)
    codebook = Codebook(2, 2, decay=0.9)
    codebook.vectors.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    codebook.sums.copy_(codebook.vectors)
    for _ in range(100):
        codebook.update(latents, codebook.nearest(latents), torch.Generator().manual_seed(0))
    torch.testing.assert_close(codebook.vectors, centres, atol=0.05, rtol=0)


def test_a_dead_vector_comes_back_to_life() -> None:
    latents = clusters(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), 50, 0.1)
    codebook = Codebook(3, 2, decay=0.5)
    codebook.vectors.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [1000.0, 1000.0]]))
    codebook.sums.copy_(codebook.vectors)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        codebook.update(latents, codebook.nearest(latents), generator)
    assert torch.bincount(codebook.nearest(latents), minlength=3).min() > 0


def test_each_stage_lowers_the_error() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer((8, 8, 8), 4)
    latents = torch.randn(4, 4, 16, 16)
    quantizer.start_from_kmeans(latents, torch.Generator().manual_seed(0))
    errors = [
        (quantizer(latents, torch.full((4,), n)).latents - latents).square().mean().item() for n in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_a_stage_that_is_not_sent_does_not_learn() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer((8, 8), 4)
    before = quantizer.codebooks[1].vectors.clone()
    quantizer(torch.randn(2, 4, 8, 8), torch.tensor([1, 1]), torch.Generator().manual_seed(0))
    assert torch.equal(quantizer.codebooks[1].vectors, before)
