"""Distortion of a paper code on a test set, at the fixed-length rate of its indices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.datasets.views import Views
from training.paper.convolutional import ConvolutionalVQVAE
from training.paper.dense import DensePictureVQVAE


@dataclass(frozen=True)
class Score:
    """One trained code on one test set."""

    mse: float
    """Mean over the test pictures; pixels have a range of 1."""
    psnr_db: float
    """Mean of the pictures' PSNR on float output."""
    bits: int
    """Sent for one x: bits of an index times positions."""


def per_picture_mse(output: Tensor, source: Tensor) -> Tensor:
    """[B, C, H, W] twice → [B]."""
    return (output - source).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def score(
    model: ConvolutionalVQVAE | DensePictureVQVAE, views: Views, *, wrong_side_view: int | None = None
) -> Score:
    """Code every sample of `views`, which are windows already, and measure x̂ against x.

    Args:
        model: in evaluation mode, on the device of `views`.
        views: the test set.
        wrong_side_view: this side view (0 the first) is another sample's at the decoder; only for codes that are
            not joint, whose encoder would see it too.
    """
    errors = []
    pictures = list(views.pictures)
    if wrong_side_view is not None:
        # Half the set away: neighbours in the list may show one scene.
        pictures[1 + wrong_side_view] = pictures[1 + wrong_side_view].roll(len(views) // 2, dims=0)
    shown = Views(tuple(pictures), views.padding_px)
    bits = 0
    for samples in torch.split(torch.arange(len(views), device=views.pictures[0].device), 128):
        source, side = shown.batch(samples, torch.zeros_like(samples), shown.width)
        coded = model(source, side)
        bits = model.config.bits * coded.quantized.indices[0].numel()
        errors.append(per_picture_mse(shown.measured(coded.output), shown.measured(source)))
    mse = torch.cat(errors).double()
    return Score(float(mse.mean()), float((-10 * mse.log10()).mean()), bits)
