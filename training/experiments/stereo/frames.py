"""Stereo pairs as the paper uses them: 128×256, both directions, flips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ndsc.codec.frames import Frame
from ndsc.evaluate.protocols import KITTI128_HEIGHT, KITTI128_WIDTH, Protocol
from training.data import Pair
from training.datasets.views import Views, stack, to_signal
from training.experiments.recipe import RecipeError


def widest(frame: Frame) -> Frame:
    """The largest centred window of the aspect 2:1, resized to 128×256: for other cameras than KITTI's."""
    return _window(frame, 0.5, 0.5, 1.0)


def load_views(pairs: Iterable[Pair], protocol: Protocol, random_views: int = 0, seed: int = 0) -> Views:
    """Views uint8 [N, 3, 128, 256] of left and right frames.

    Args:
        pairs: one after the other, so that full-size frames need not all be in memory.
        protocol: what is done to each frame; the first view of a pair.
        random_views: windows beside it, almost as high as the frame and anywhere in it, the same of both frames:
            so that few pairs last longer.
        seed: of those windows.

    Raises RecipeError when there are no pairs.
    """
    rng = np.random.default_rng(seed)
    left, right = [], []
    for pair in pairs:
        left.append(protocol(pair.left))
        right.append(protocol(pair.right))
        for _ in range(random_views):
            place = rng.random(), rng.random(), rng.uniform(0.8, 1.0)
            left.append(_window(pair.left, *place))
            right.append(_window(pair.right, *place))
    if not left:
        raise RecipeError("no stereo pairs; give at least one")
    return Views((stack(left), stack(right)))


def _window(frame: Frame, across: float, down: float, share: float) -> Frame:
    """A 2:1 window of `share` of the largest one's size; 0 to 1 is from left to right and from top to bottom."""
    height, width = frame.shape[:2]
    window_height = share * min(height, width * KITTI128_HEIGHT / KITTI128_WIDTH)
    window_width = window_height * KITTI128_WIDTH / KITTI128_HEIGHT
    left, top = across * (width - window_width), down * (height - window_height)
    box = (left, top, left + window_width, top + window_height)
    size = (KITTI128_WIDTH, KITTI128_HEIGHT)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, box=box))


def both_directions(views: Views) -> Views:
    """Each pair twice, the second time with right as the source: [2N], the first direction first."""
    left, right = views.pictures
    return Views((torch.cat([left, right]), torch.cat([right, left])))


@dataclass(frozen=True)
class StereoSampler:
    """Step → (x, y): random views, either frame as the source, mirrored or not.

    A mirrored pair is one of the mirrored scene only when both frames are mirrored and change places; places are
    random anyhow, so one coin that mirrors both does it. With `published_flips` each frame has its own coin, as in
    the reference: half of the batch then shows x and y of scenes that face opposite ways.
    """

    views: Views
    batch_size: int
    seed: int
    published_flips: bool = False

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """x and y, float32 [B, 3, 128, 256] in [-0.5, 0.5]."""
        rng = np.random.default_rng((self.seed, step))
        left, right = self.views.pictures
        coins = torch.from_numpy(rng.random((3, self.batch_size)) < 0.5)
        chosen = torch.from_numpy(rng.integers(len(left), size=self.batch_size))
        swapped, source_mirrored, side_mirrored = coins.to(left.device)[:, :, None, None, None]
        chosen = chosen.to(left.device)
        source = torch.where(swapped, right[chosen], left[chosen])
        side = torch.where(swapped, left[chosen], right[chosen])
        if not self.published_flips:
            side_mirrored = source_mirrored
        source = torch.where(source_mirrored, source.flip(3), source)
        side = torch.where(side_mirrored, side.flip(3), side)
        return to_signal(source), to_signal(side)
