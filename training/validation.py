"""What a training run measures of itself: PSNR on held-out frames, and how often each index is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ndsc.evaluate.protocols import CROP_HEIGHT, CROP_WIDTH, kitti128
from training.checkpoint import Checkpoint
from training.data import Frame, Pair, TrainingData
from training.model import ConditionalVQVAE
from training.scalar_codec import Codec


def validation_view(frame: Frame) -> Frame:
    """What is validated on: `kitti128` of a frame it fits, else the frame, cut to whole cells of any prior."""
    height, width = frame.shape[:2]
    if height >= CROP_HEIGHT and width >= CROP_WIDTH:
        return kitti128(frame)
    return frame[: max(32, height // 32 * 32), : max(32, width // 32 * 32)]


def validation_views(pairs: Sequence[Pair]) -> list[tuple[Frame, Frame]]:
    """Left and right view of each pair."""
    return [(validation_view(pair.left), validation_view(pair.right)) for pair in pairs]


@torch.no_grad()
def validate(
    checkpoint: Checkpoint, frames: list[tuple[Frame, Frame]], device: torch.device, without: bool = True
) -> dict[str, list[float]]:
    """Mean PSNR (float output, dB) with y and without, and rate (bpp), by rate level.

    The rate is `bpp`, an estimate by the codec's own rate model, or `entropy_bpp`, of the indices' own histogram:
    guides for choosing, not rates anyone pays.
    """
    model = checkpoint.averaged_model().to(device)
    psnr: dict[str, list[list[float]]] = {"right": [], "none": []} if without else {"right": []}
    bits: list[list[float]] = []
    histogram = Histogram(model)
    pixels = 0
    for left, right in frames:
        source, side = (
            torch.from_numpy(f.copy()).to(device).permute(2, 0, 1)[None].float() / 255 for f in (left, right)
        )
        pixels += left.shape[0] * left.shape[1]
        points = model.operating_points(source)
        features = model.side_network(side)
        histogram.add(source)
        bits.append([float(p.bits.sum()) for p in points if p.bits is not None])
        for name, rows in psnr.items():
            present = torch.tensor([float(name == "right")], device=device)
            row = []
            for level, point in enumerate(points):
                at = torch.tensor([level], device=device)
                decoded = model.decoder(point.latents, at, features, present)
                mse = (decoded.clamp(0, 1) - source).square().mean().item()
                row.append(-10 * math.log10(mse))
            rows.append(row)
    scores = {name: np.mean(rows, axis=0).round(3).tolist() for name, rows in psnr.items()}
    if histogram.counts:
        return scores | {"entropy_bpp": (np.cumsum(histogram.entropies()) / pixels).round(4).tolist()}
    return scores | {"bpp": (np.sum(bits, axis=0) / pixels).round(4).tolist()}


class Histogram:
    """How often each index of each stage is chosen; nothing for a codec without codebooks."""

    def __init__(self, model: Codec) -> None:
        self.model = model
        sizes = model.config.codebook_sizes if isinstance(model, ConditionalVQVAE) else ()
        self.counts: list[npt.NDArray[np.int64]] = [np.zeros(size, np.int64) for size in sizes]

    def add(self, source: Tensor) -> None:
        """Count the indices of frames [B, 3, H, W]."""
        if isinstance(self.model, ConditionalVQVAE):
            indices = self.model.quantizer(self.model.encoder(source)).indices.cpu()
            for s, counts in enumerate(self.counts):
                counts += np.bincount(indices[:, s].flatten().numpy(), minlength=len(counts))

    def entropies(self) -> list[float]:
        """Bits of each stage's indices, all of them together."""
        return [float(-(c[c > 0] * np.log2(c[c > 0] / c.sum())).sum()) for c in self.counts]


@torch.no_grad()
def count_indices(
    checkpoint: Checkpoint, data: TrainingData, device: torch.device, batch_count: int = 16
) -> list[list[int]]:
    """How often each index of each stage is chosen on fresh training batches: the static prior's source."""
    histogram = Histogram(checkpoint.averaged_model().to(device))
    config = checkpoint.train_config
    first = config.steps + 100  # steps past the end: samples no training step sees
    for step in range(first, first + batch_count):
        histogram.add(data.batch(config, checkpoint.model_config.levels, step).source)
    return [c.tolist() for c in histogram.counts]
