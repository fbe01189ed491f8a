"""Residual vector quantizer: EMA codebooks, k-means start, dead-code reset.

One stage is the paper's quantizer (VQ-VAE with an EMA codebook, van den Oord et al. 2017, appendix A.1);
further stages quantize what the stages before them left over, so that one encoder serves several rates.
Nothing here waits for a GPU, and distances and averages are float32 whatever the network computes in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.ranks import Ranks


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
    """One stage: K vectors of length D, moved by exponential averages and not by gradients.

    With several `ranks` every rank holds the same vectors and sees its share of the batch.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, size: int, dimension: int, decay: float = 0.99, dead_below: float = 0.1) -> None:
        super().__init__()
        self.decay = decay
        self.dead_below = dead_below
        self.ranks = Ranks()
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
        pick = torch.randperm(flat.shape[0], generator=generator, device=generator.device)[:size]
        if len(pick) < size:
            raise ValueError(f"k-means for {size} code vectors needs {size} latents, got {flat.shape[0]}")
        self.vectors.copy_(flat[pick.to(flat.device)])
        for _ in range(iterations):
            assigned = self.nearest(flat)
            counts = torch.bincount(assigned, minlength=size).to(flat.dtype)
            sums = torch.zeros_like(self.vectors).index_add_(0, assigned, flat)
            centres = sums / counts.clamp(min=1)[:, None]
            self.vectors.copy_(torch.where(counts[:, None] > 0, centres, self.vectors))
        self.counts.copy_(counts)
        self.sums.copy_(self.vectors * counts[:, None])

    @torch.no_grad()
    def update(
        self, flat: Tensor, assigned: Tensor, generator: torch.Generator, used: Tensor | None = None
    ) -> None:
        """One EMA step from latents [N, D] and their indices [N]; a dead vector moves to a random latent.

        `used` [N] is 1 for a latent that counts and 0 for another (None: all count). Ranks draw alike from
        `generator` and end with the same codebook, the one that a single process with all their latents has.
        """
        size, dimension = self.vectors.shape
        used = torch.ones_like(flat[:, 0]) if used is None else used
        rows = torch.cat([flat, torch.ones_like(flat[:, :1])], 1) * used[:, None]
        seen = self.ranks.sum(flat.new_zeros(size, dimension + 1).index_add_(0, assigned, rows))
        any_used = seen[:, -1].sum() > 0
        step = (1 - self.decay) * any_used
        self.counts.lerp_(seen[:, -1], step)
        self.sums.lerp_(seen[:, :-1], step)
        # Laplace smoothing keeps rare vectors finite (same appendix, epsilon 1e-5).
        total = self.counts.sum()
        smoothed = (self.counts + 1e-5) / (total + size * 1e-5) * total
        dead = any_used & (self.counts < self.dead_below * total / size / 10)
        replacements = self._random_latents(flat, used, generator)
        moved = torch.where(dead[:, None], replacements, self.sums / smoothed[:, None])
        self.vectors.copy_(torch.where(any_used, moved, self.vectors))
        # Half the average use: enough to live through a few hundred steps unless it is chosen again.
        self.counts.copy_(torch.where(dead, total / size / 2, self.counts))
        self.sums.copy_(torch.where(dead[:, None], replacements * self.counts[:, None], self.sums))

    def _random_latents(self, flat: Tensor, used: Tensor, generator: torch.Generator) -> Tensor:
        """For each code vector one of the used latents of all ranks: [K, D]."""
        draws = torch.rand(len(self.vectors), generator=generator, device=generator.device)
        numbers = used.long().cumsum(0)
        here = numbers[-1]
        by_rank = self.ranks.gather(here[None])
        number = (draws.to(flat.device).double() * by_rank.sum()).long() - by_rank[: self.ranks.rank].sum()
        mine = (number >= 0) & (number < here)
        position = torch.searchsorted(numbers, number, right=True).clamp(max=len(flat) - 1)
        return self.ranks.sum(flat[position] * mine[:, None])


class ResidualQuantizer(nn.Module):
    """Stages of codebooks; stage s quantizes the latents minus the code vectors of the stages before it."""

    def __init__(self, codebook_sizes: tuple[int, ...], dimension: int) -> None:
        super().__init__()
        self.ranks = Ranks()
        self.stages = nn.ModuleList(Codebook(size, dimension) for size in codebook_sizes)

    @property
    def codebooks(self) -> list[Codebook]:
        """The stages, first to last."""
        return [stage for stage in self.stages if isinstance(stage, Codebook)]

    def share(self, ranks: Ranks) -> None:
        """From now on each of `ranks` sees its share of every batch."""
        self.ranks = ranks
        for stage in self.codebooks:
            stage.ranks = ranks

    def forward(
        self, latents: Tensor, stages_sent: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Quantized:
        """Quantize [B, D, h, w]; sample b keeps its first `stages_sent[b]` stages (all when None).

        `generator` is given in training: the codebooks then take one EMA step on what each stage saw.
        """
        with torch.autocast(latents.device.type, enabled=False):
            return self._quantize(
                latents.to(torch.promote_types(latents.dtype, torch.float32)), stages_sent, generator
            )

    def _quantize(
        self, latents: Tensor, stages_sent: Tensor | None, generator: torch.Generator | None
    ) -> Quantized:
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
                stage.update(residual, assigned, generator, per_position)
            total = total + chosen * per_position[:, None]
            partial = total.view(batch, height, width, dimension).permute(0, 3, 1, 2)
            error = (latents - partial).square().mean(dim=(1, 2, 3))
            commitment = commitment + (error * sent).sum()
            sent_share = sent_share + sent.sum()
        quantized = total.view(batch, height, width, dimension).permute(0, 3, 1, 2)
        if stages_sent is not None:
            # The ranks' mean, so that the mean of their losses is the loss of the whole batch.
            commitment = commitment / self.ranks.mean(sent_share)
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
        """Start every stage from k-means of what the stages before it leave of [B, D, h, w].

        With several ranks each gives the latents of all.
        """
        residual = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        for stage in self.codebooks:
            stage.start_from_kmeans(residual, generator)
            residual = residual - stage.vectors[stage.nearest(residual)]
