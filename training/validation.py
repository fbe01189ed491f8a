"""What a training run measures of itself: PSNR on held-out frames, and how often each index is chosen."""

from __future__ import annotations

import math

import numpy as np
import torch

from ndsc.evaluate.protocols import CROP_HEIGHT, CROP_WIDTH, kitti128
from training.checkpoint import Checkpoint
from training.data import Frame, TrainingData


def validation_view(frame: Frame) -> Frame:
    """What is validated on: `kitti128` of a frame it fits, else the frame, cut to whole strides."""
    height, width = frame.shape[:2]
    if height >= CROP_HEIGHT and width >= CROP_WIDTH:
        return kitti128(frame)
    return frame[: max(8, height // 8 * 8), : max(8, width // 8 * 8)]


@torch.no_grad()
def validate(
    checkpoint: Checkpoint, frames: list[tuple[Frame, Frame]], device: torch.device, without: bool = True
) -> dict[str, list[float]]:
    """Mean PSNR (float output, dB) with y and without, and index entropy (bpp), by rate level.

    The entropy is of the indices' own histogram: a guide for choosing, not a rate anyone pays.
    """
    model = checkpoint.averaged_model().to(device)
    sizes = checkpoint.model_config.codebook_sizes
    psnr: dict[str, list[list[float]]] = {"right": [], "none": []}
    counts = [np.zeros(size, np.int64) for size in sizes]
    pixels = 0
    for left, right in frames:
        source, side = (
            torch.from_numpy(f.copy()).to(device).permute(2, 0, 1)[None].float() / 255 for f in (left, right)
        )
        pixels += left.shape[0] * left.shape[1]
        indices = model.quantizer(model.encoder(source)).indices
        for s, size in enumerate(sizes):
            counts[s] += np.bincount(indices[0, s].flatten().cpu().numpy(), minlength=size)
        features = model.side_network(side)
        for name, present in (("right", 1.0), ("none", 0.0)):
            if name == "none" and not without:
                continue
            row = []
            for level in range(len(sizes)):
                at = torch.tensor([level], device=device)
                decoded = model.decoder(
                    model.quantizer.lookup(indices, at + 1),
                    at,
                    features,
                    torch.tensor([present], device=device),
                )
                mse = (decoded.clamp(0, 1) - source).square().mean().item()
                row.append(-10 * math.log10(mse))
            psnr[name].append(row)
    bits = [float(-(c[c > 0] * np.log2(c[c > 0] / c.sum())).sum()) for c in counts]
    return {
        **{name: np.mean(rows, axis=0).round(3).tolist() for name, rows in psnr.items() if rows},
        "entropy_bpp": (np.cumsum(bits) / pixels).round(4).tolist(),
    }


@torch.no_grad()
def count_indices(
    checkpoint: Checkpoint, data: TrainingData, device: torch.device, batch_count: int = 16
) -> list[list[int]]:
    """How often each index of each stage is chosen on fresh training batches: the static prior's source."""
    model = checkpoint.averaged_model().to(device)
    config, sizes = checkpoint.train_config, checkpoint.model_config.codebook_sizes
    counts = [np.zeros(size, np.int64) for size in sizes]
    first = config.steps + 100  # steps past the end: samples no training step sees
    for step in range(first, first + batch_count):
        source = data.batch(config, len(sizes), step).source
        indices = model.quantizer(model.encoder(source)).indices.cpu()
        for s, size in enumerate(sizes):
            counts[s] += np.bincount(indices[:, s].flatten().numpy(), minlength=size)
    return [c.tolist() for c in counts]
