"""Named views of stereo pairs and of the synthetic drive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ndsc.scene import SceneConfig, StereoScene
from training.data import SYNTHETIC_FOCAL_RANGE, Pair, load_pairs
from training.datasets.views import Views, stack_frames

HEIGHT_PX = 64
EARLIER_S = 0.1
"""One frame at 10 Hz: the drive has moved on 0.8 m."""

NamedViews = Mapping[str, Tensor]
"""uint8 [N, C, H, W] by name; "source" is x."""


@dataclass(frozen=True)
class Scenes:
    """Train: whole frames to draw windows from. Test: windows."""

    train: NamedViews
    test: NamedViews


def select(views: NamedViews, names: Sequence[str]) -> Views:
    """x and the side views of these names."""
    return Views((views["source"], *(views[name] for name in names)))


def grey(picture: Tensor) -> Tensor:
    """uint8 RGB [N, 3, H, W] → its luma (ITU-R BT.601), uint8 [N, 1, H, W]."""
    return _luma(picture).round().byte()


def half_size(picture: Tensor) -> Tensor:
    """uint8 [N, C, H, W], sides even → averaged 2 by 2, each average repeated to the old size."""
    small = F.avg_pool2d(picture.float(), 2)
    return F.interpolate(small, scale_factor=2).round().byte()


def edges(picture: Tensor) -> Tensor:
    """uint8 RGB [N, 3, H, W] → magnitude of the luma's Sobel gradient, uint8 [N, 1, H, W], clipped at 255.

    A quarter of the usual sum, so that the gradient is in grey levels a pixel, times 2.
    """
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernels = torch.stack([across, across.T])[:, None]
    gradient = F.conv2d(F.pad(_luma(picture), [1] * 4, mode="replicate"), kernels)
    return (2 * gradient.square().sum(1, keepdim=True).sqrt()).clamp(max=255).round().byte()


def _luma(picture: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114])
    return (picture.float() * weights[:, None, None]).sum(1, keepdim=True)


KINDS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "colour": lambda picture: picture,
    "grey": grey,
    "half size": half_size,
    "edges": edges,
}
"""What the decoder may have of the right frame."""


def load_stereo(folder: Path, split: str, window_px: int, progress: Callable[[str], None]) -> Scenes:
    """`folder`/train, each pair as it is and mirrored (views then swap), and windows of `folder`/`split`."""
    train = _stack(load_pairs([folder / "train"], progress))
    mirrored = tuple(view.flip(3) for view in reversed(train))
    left, right = (torch.cat(both) for both in zip(train, mirrored, strict=True))
    test = Views(_stack(load_pairs([folder / split], progress))).windows(window_px).pictures
    return Scenes(_kinds(left, right), _kinds(test[0], test[1]))


def _stack(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Left and right frames [N, 3, HEIGHT_PX, width] each, cut to one width, a multiple of 8."""
    both = stack_frames([pair.left for pair in pairs] + [pair.right for pair in pairs], HEIGHT_PX)
    left, right = both[..., : both.shape[3] // 8 * 8].chunk(2)
    return left, right


def _kinds(left: Tensor, right: Tensor) -> NamedViews:
    return {"source": left} | {name: kind(right) for name, kind in KINDS.items()}


def render_drives(
    seeds: Sequence[int], moments: int, progress: Callable[[str], None] = lambda _: None
) -> NamedViews:
    """`moments` instants of each drive: source, "right", "earlier" and "unrelated", another drive's right view."""
    frames: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]] = {
        "source": [],
        "right": [],
        "earlier": [],
    }
    width = 2 * HEIGHT_PX
    for seed in seeds:
        rng = np.random.default_rng(seed)
        focal_px = float(rng.uniform(*SYNTHETIC_FOCAL_RANGE)) * width
        scene = StereoScene(SceneConfig(seed=seed, width=width, height=HEIGHT_PX, focal_px=focal_px))
        for time_s in rng.uniform(1, 600, moments):
            frames["source"].append(scene.render(float(time_s), "left"))
            frames["right"].append(scene.render(float(time_s), "right"))
            frames["earlier"].append(scene.render(float(time_s) - EARLIER_S, "left"))
        progress(f"drive {seed}")
    views = {name: stack_frames(of_view, HEIGHT_PX) for name, of_view in frames.items()}
    return views | {"unrelated": views["right"].roll(len(views["right"]) // 2, dims=0)}
