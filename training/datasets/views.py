"""Samples in memory that are seen in several ways, and batches of windows that are a pure function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ndsc.codec.frames import Frame


@dataclass(frozen=True)
class Views:
    """N samples: view 0 is the source x, the others together are the side information y."""

    pictures: tuple[Tensor, ...]
    """One uint8 [N, C, H, W] for each view; channels may differ."""
    padding_px: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Border of x that only fills up whole strides and is not measured: left, right, top, bottom."""

    def __len__(self) -> int:
        return len(self.pictures[0])

    @property
    def width(self) -> int:
        """Columns of every view."""
        return int(self.pictures[0].shape[3])

    @property
    def height(self) -> int:
        """Rows of every view."""
        return int(self.pictures[0].shape[2])

    @property
    def source_channels(self) -> int:
        """Channels of x."""
        return int(self.pictures[0].shape[1])

    @property
    def side_channels(self) -> tuple[int, ...]:
        """Channels of each side view."""
        return tuple(int(view.shape[1]) for view in self.pictures[1:])

    def to(self, device: torch.device) -> Views:
        """The same samples on `device`."""
        return replace(self, pictures=tuple(view.to(device) for view in self.pictures))

    def windows(self, width: int) -> Views:
        """Each sample cut into windows of `width` columns that do not overlap; columns left over are dropped."""
        count = self.width // width

        def cut(view: Tensor) -> Tensor:
            samples, channels, height = view.shape[:3]
            columns = view[..., : count * width].reshape(samples, channels, height, count, width)
            return columns.movedim(3, 1).flatten(0, 1)

        return replace(self, pictures=tuple(cut(view) for view in self.pictures))

    def batch(self, samples: Tensor, columns: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """(x, y) of the windows of `width` that start at `columns` [B] of `samples` [B]; see `to_signal`."""
        across = columns[:, None] + torch.arange(width, device=columns.device)
        signals = [
            to_signal(view[samples[:, None], :, :, across].permute(0, 2, 3, 1)) for view in self.pictures
        ]
        return signals[0], torch.cat(signals[1:], 1)

    def measured(self, picture: Tensor) -> Tensor:
        """The part of x or x̂ [B, C, H, W] that is measured: without the padding."""
        return F.pad(picture, [-pixels for pixels in self.padding_px])


@dataclass(frozen=True)
class WindowSampler:
    """Step → (x, y): random windows of random samples. Equal seeds draw equal windows of equal sizes."""

    views: Views
    batch_size: int
    width: int
    seed: int

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """x [B, C, H, width] and y, all side views along the channels, in [-0.5, 0.5]."""
        rng = np.random.default_rng((self.seed, step))
        device = self.views.pictures[0].device
        samples = rng.integers(len(self.views), size=self.batch_size)
        columns = rng.integers(self.views.width - self.width + 1, size=self.batch_size)
        return self.views.batch(
            torch.from_numpy(samples).to(device), torch.from_numpy(columns).to(device), self.width
        )


def to_signal(picture: Tensor) -> Tensor:
    """uint8 → float32 in [-0.5, 0.5], the range of the paper's networks."""
    return picture.float() / 255 - 0.5


def stack(frames: Sequence[Frame]) -> Tensor:
    """Frames uint8 [H, W, 3] of one size → uint8 [N, 3, H, W]."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def stack_frames(frames: Sequence[Frame], height: int) -> Tensor:
    """Frames resized to `height` rows at their own aspect, the right edge cut to the narrowest.

    uint8 RGB [H, W, 3] each → uint8 [N, 3, height, width].
    """
    resized = []
    for frame in frames:
        width = round(frame.shape[1] * height / frame.shape[0])
        resized.append(np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)))
    narrowest = min(frame.shape[1] for frame in resized)
    return stack([frame[:, :narrowest] for frame in resized])
