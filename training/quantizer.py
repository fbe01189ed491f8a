"""Residual vector quantizer: EMA codebooks, k-means start, dead-code reset.

One stage is the paper's quantizer (VQ-VAE with an EMA codebook, van den Oord et al. 2017, appendix A.1);
further stages quantize what the stages before them left over, so that one encoder serves several rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Quantized:
    """What the quantizer returns for latents [B, D, h, w]."""

    latents: Tensor
    """[B, D, h, w] sum of the sent stages' code vectors, straight-through gradient to the input."""
    indices: Tensor
    """[B, S, h, w] int64, every stage."""
    commitment: Tensor
    """Scalar: mean squared distance of the latents to their quantized value, over the stages sent."""


class Codebook(nn.Module):
    """One stage: K vectors of length D, moved by exponential averages and not by gradients."""

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, size: int, dimension: int, decay: float = 0.99, dead_below: float = 0.1) -> None:
        super().__init__()
        self.decay = decay
        self.dead_below = dead_below
        self.register_buffer("vectors", torch.randn(size, dimension))
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", torch.zeros(size, dimension))

    def nearest(self, flat: Tensor) -> Tensor:
        """Index of the nearest code vector for each row of [N, D]: int64 [N]."""
        scores = flat @ self.vectors.T - 0.5 * self.vectors.square().sum(1)
        return scores.argmax(1)

    @torch.no_grad()
    def start_from_kmeans(self, flat: Tensor, generator: torch.Generator, iterations: int = 20) -> None:
        """Place the code vectors at the k-means centres of [N, D], so that none starts dead."""
        size = self.vectors.shape[0]
        pick = torch.randperm(flat.shape[0], generator=generator)[:size]
        if len(pick) < size:
            raise ValueError(f"k-means for {size} code vectors needs {size} latents, got {flat.shape[0]}")
        self.vectors.copy_(flat[pick])
        for _ in range(iterations):
            assigned = self.nearest(flat)
            counts = torch.bincount(assigned, minlength=size).to(flat.dtype)
            sums = torch.zeros_like(self.vectors).index_add_(0, assigned, flat)
            used = counts > 0
            self.vectors[used] = sums[used] / counts[used, None]
        self.counts.copy_(counts)
        self.sums.copy_(self.vectors * counts[:, None])

    @torch.no_grad()
    def update(self, flat: Tensor, assigned: Tensor, generator: torch.Generator) -> None:
        """One EMA step from latents [N, D] and their indices [N]; a dead vector moves to a random latent."""
        size = self.vectors.shape[0]
        counts = torch.bincount(assigned, minlength=size).to(flat.dtype)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, assigned, flat), 1 - self.decay)
        # Laplace smoothing keeps rare vectors finite (same appendix, epsilon 1e-5).
        total = self.counts.sum()
        smoothed = (self.counts + 1e-5) / (total + size * 1e-5) * total
        self.vectors.copy_(self.sums / smoothed[:, None])
        dead = torch.nonzero(self.counts < self.dead_below * total / size / 10).flatten()
        if len(dead):
            replacements = flat[torch.randint(flat.shape[0], (len(dead),), generator=generator)]
            self.vectors[dead] = replacements
            # Half the average use: enough to live through a few hundred steps unless it is chosen again.
            self.counts[dead] = total / size / 2
            self.sums[dead] = replacements * self.counts[dead, None]


class ResidualQuantizer(nn.Module):
    """Stages of codebooks; stage s quantizes the latents minus the code vectors of the stages before it."""

    def __init__(self, codebook_sizes: tuple[int, ...], dimension: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Codebook(size, dimension) for size in codebook_sizes)

    @property
    def codebooks(self) -> list[Codebook]:
        """The stages, first to last."""
        return [stage for stage in self.stages if isinstance(stage, Codebook)]

    def forward(
        self, latents: Tensor, stages_sent: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Quantized:
        """Quantize [B, D, h, w]; sample b keeps its first `stages_sent[b]` stages (all when None).

        `generator` is given in training: the codebooks then take one EMA step on what each stage saw.
        """
        batch, dimension, height, width = latents.shape
        flat = latents.detach().permute(0, 2, 3, 1).reshape(-1, dimension)
        total = torch.zeros_like(flat)
        indices = []
        commitment = latents.new_zeros(())
        sent_share = latents.new_zeros(())
        for s, stage in enumerate(self.codebooks):
            residual = flat - total
            assigned = stage.nearest(residual)
            indices.append(assigned.view(batch, height, width))
            chosen = stage.vectors[assigned]
            if stages_sent is None:
                total = total + chosen
                continue
            sent = (stages_sent > s).to(flat.dtype)
            per_position = sent[:, None].expand(batch, height * width).reshape(-1)
            if generator is not None:
                used = per_position > 0
                if bool(used.any()):
                    stage.update(residual[used], assigned[used], generator)
            total = total + chosen * per_position[:, None]
            partial = total.view(batch, height, width, dimension).permute(0, 3, 1, 2)
            error = (latents - partial).square().mean(dim=(1, 2, 3))
            commitment = commitment + (error * sent).sum()
            sent_share = sent_share + sent.sum()
        quantized = total.view(batch, height, width, dimension).permute(0, 3, 1, 2)
        if stages_sent is not None:
            commitment = commitment / sent_share
        return Quantized(latents + (quantized - latents).detach(), torch.stack(indices, 1), commitment)

    def lookup(self, indices: Tensor, stages_sent: Tensor) -> Tensor:
        """Code vectors of indices [B, S, h, w], summed over each sample's sent stages: [B, D, h, w]."""
        total: Tensor | None = None
        for s, stage in enumerate(self.codebooks):
            sent = (stages_sent > s).to(stage.vectors.dtype)[:, None, None, None]
            part = nn.functional.embedding(indices[:, s], stage.vectors).permute(0, 3, 1, 2) * sent
            total = part if total is None else total + part
        assert total is not None
        return total

    @torch.no_grad()
    def start_from_kmeans(self, latents: Tensor, generator: torch.Generator) -> None:
        """Start every stage from k-means of what the stages before it leave of [B, D, h, w]."""
        residual = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        for stage in self.codebooks:
            stage.start_from_kmeans(residual, generator)
            residual = residual - stage.vectors[stage.nearest(residual)]
