"""Training data: stereo pairs on the device that trains, and batches that are a pure function of (seed, step).

A batch needs no loader state, so a resumed run sees exactly the samples the unbroken run would have seen. Frames
are decoded once and stay on the device as uint8; numpy draws what happens to each sample (microseconds), and the
device cuts, resizes and relights. On one CPU core that is 4 % of a training step, so a CPU goes the same way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ndsc.codec.frames import read_image
from ndsc.evaluate.pairs import PairsError, list_pairs
from ndsc.scene import SceneConfig, StereoScene
from training.config import FlipKind, TrainConfig
from training.ranks import Ranks

Frame = npt.NDArray[np.uint8]
"""RGB [height, width, 3]."""

SYNTHETIC_FOCAL_RANGE = (0.5, 0.75)
"""Focal lengths of the synthetic drives, in widths: about KITTI's centre crop."""


@dataclass(frozen=True)
class Pair:
    """A rectified stereo pair, both views of one size."""

    left: Frame
    right: Frame


def load_pairs(directories: Sequence[Path], progress: Callable[[str], None] = lambda _: None) -> list[Pair]:
    """Read every pair under `directories` (each holds left/ and right/), decoded once and kept in memory.

    Raises PairsError when a partner is missing or of another size, and ImageError when a file is no image.
    """
    pairs = []
    for directory in directories:
        for entry in list_pairs(directory):
            left, right = read_image(entry.left), read_image(entry.right)
            if left.shape != right.shape:
                raise PairsError(
                    f"{entry.left}: its partner in right/ has another size; both views must have one"
                )
            pairs.append(Pair(left, right))
            progress(entry.name)
    return pairs


def render_drives(
    count: int,
    *,
    seed: int,
    width: int = 512,
    height: int = 256,
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Pair]:
    """`count` pairs from as many synthetic drives, kept as one array file in `cache` when it is given."""
    cached = cache / f"drives-{count}-{seed}-{width}x{height}-{_renderer()}.npy" if cache else None
    if cached and cached.exists():
        stack = np.load(cached)
        return [Pair(left, right) for left, right in stack]
    pairs = []
    rng = np.random.default_rng((seed, count))
    for index in range(count):
        focal_px = float(rng.uniform(*SYNTHETIC_FOCAL_RANGE)) * width
        scene = StereoScene(SceneConfig(seed=seed + index, width=width, height=height, focal_px=focal_px))
        pairs.append(Pair(*scene.pair(float(rng.uniform(0, 600)))))
        progress(f"drive {index + 1}/{count}")
    if cached:
        cached.parent.mkdir(parents=True, exist_ok=True)
        unfinished = cached.with_suffix(f".{os.getpid()}.npy")  # processes may render side by side
        np.save(unfinished, np.stack([np.stack([p.left, p.right]) for p in pairs]))
        unfinished.replace(cached)
    return pairs


def _renderer() -> str:
    """Names what the renderer draws today, so that a cache of an older one is not used."""
    return fingerprint([Pair(*StereoScene(SceneConfig(seed=1, width=64, height=32)).pair(1.0))])


def fingerprint(pairs: Sequence[Pair]) -> str:
    """16 hexadecimal digits that name the pictures, from a grid of their pixels."""
    digest = hashlib.sha256()
    for pair in pairs:
        for view in (pair.left, pair.right):
            digest.update(str(view.shape).encode() + view[::16, ::16].tobytes())
    return digest.hexdigest()[:16]


Table = npt.NDArray[np.uint8]
"""New value of every old value: [3, 256], by colour."""


def light_table(rng: np.random.Generator, strength: float) -> Table:
    """Exposure, gamma and colour balance moved a little: cameras of one rig never agree exactly."""
    gamma = np.exp(rng.uniform(-strength, strength))
    gains = np.exp(rng.uniform(-strength, strength)) * np.exp(rng.uniform(-strength / 3, strength / 3, 3))
    values = (np.arange(256) / 255) ** gamma * gains[:, None]
    table: Table = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return table


def jitter(frame: Frame, rng: np.random.Generator, strength: float) -> Frame:
    """`frame` in the light of a random `light_table`."""
    table = light_table(rng, strength)
    return np.stack([table[c, frame[..., c]] for c in range(3)], axis=-1)


@dataclass(frozen=True)
class Window:
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_window(
    frame_height: int, frame_width: int, rng: np.random.Generator, height: int, width: int
) -> Window:
    """A random window that will be resized to height×width.

    Half of the windows are nearly as high as the frame (the `kitti128` protocol looks like this), the others of
    any size down to native resolution.
    """
    largest = min(frame_height, frame_width * height / width)
    smallest = min(height, largest)
    if rng.random() < 0.5:
        window_height = largest * rng.uniform(0.9, 1.0)
    else:
        window_height = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    window_width = min(window_height * width / height * rng.uniform(0.9, 1.1), frame_width)
    rows, columns = max(1, round(window_height)), max(1, round(window_width))
    top = int(rng.integers(frame_height - rows + 1))
    left = int(rng.integers(frame_width - columns + 1))
    return Window(top, left, rows, columns)


def zoomed(window: Window, rng: np.random.Generator) -> Window:
    """A part of `window`, up to a quarter smaller and anywhere in it.

    What a camera that drives forward sees of `window` a second later is nearly that.
    """
    scale = np.exp(-rng.uniform(0.02, 0.3))
    height, width = max(1, round(window.height * scale)), max(1, round(window.width * scale))
    top = window.top + int(rng.integers(window.height - height + 1))
    left = window.left + int(rng.integers(window.width - width + 1))
    return Window(top, left, height, width)


@dataclass(frozen=True)
class Orientation:
    """How the views of a pair become source and side information.

    A horizontal flip mirrors both views *and swaps them*: only then does a near object still stand further to
    the left in the second view.
    """

    swapped: bool
    mirrored: tuple[bool, bool]
    """Source and side information."""

    @classmethod
    def draw(cls, rng: np.random.Generator, flips: FlipKind) -> Orientation:
        """As it is, flipped, or one time in eight swapped alone: a right camera can be a source too.

        With `flips` of "each" what the paper's code does: two coins and no swap.
        """
        draw = rng.random()
        if flips == "each":
            return cls(swapped=False, mirrored=(draw < 0.5, draw % 0.5 < 0.25))
        mirrored = 0.125 <= draw < 0.5625
        return cls(swapped=draw < 0.5625, mirrored=(mirrored, mirrored))

    def apply(self, views: Tensor) -> Tensor:
        """(left, right) [2, ..., W] → (source, side)."""
        both = views.flip(0) if self.swapped else views
        flips = zip(both, self.mirrored, strict=True)
        return torch.stack([view.flip(-1) if mirrored else view for view, mirrored in flips])


@dataclass(frozen=True)
class Side:
    """Side information that is not the pair's own view: of a camera mixed up, moved, dark, or late."""

    pair: int
    window: Window
    black: bool = False
    rows: int = 0
    """Moved down by so many rows after the cut, the first row repeated; up where it is negative."""


@dataclass(frozen=True)
class Sample:
    """All that chance decides about one sample."""

    pair: int
    """Position among the pairs and, after them, the drives."""
    window: Window
    orientation: Orientation
    source_light: Table
    side_light: Table
    present: bool
    """Whether the decoder sees the side information."""
    level: int
    side: Side | None = None
    """Where the side information comes from instead of the pair's other view."""


@dataclass(frozen=True)
class Batch:
    """Samples on the device that trains."""

    source: Tensor
    """float32 [B, 3, H, W] in [0, 1], whole grey levels; `side` too."""
    side: Tensor
    present: Tensor
    """float32 [B]: 1 where the decoder sees `side`."""
    level: Tensor
    """int64 [B]."""


def moved(view: Tensor, rows: int) -> Tensor:
    """A view [3, H, W] moved down by `rows`, its edge row repeated."""
    height = view.shape[1]
    return view[:, (torch.arange(height, device=view.device) - rows).clamp(0, height - 1)]


class TrainingData:
    """Pairs and synthetic drives, kept on `device` as uint8. Raises ValueError when there are none.

    KITTI's training pairs take 2 GB.
    """

    def __init__(self, pairs: Sequence[Pair], drives: Sequence[Pair], device: torch.device) -> None:
        if not pairs and not drives:
            raise ValueError("no training pairs and no synthetic drives")
        self.device = device
        self.pair_count, self.drive_count = len(pairs), len(drives)
        self._views = [
            torch.from_numpy(np.stack([pair.left, pair.right])).to(device).permute(0, 3, 1, 2)
            for pair in [*pairs, *drives]
        ]

    def draw(self, config: TrainConfig, levels: int, step: int) -> list[Sample]:
        """The samples of `step`: they depend on the data's sizes and the arguments alone."""
        rng = np.random.default_rng((config.seed, step))
        return [self._draw_sample(config, levels, rng) for _ in range(config.batch_size)]

    def _draw_sample(self, config: TrainConfig, levels: int, rng: np.random.Generator) -> Sample:
        if not self.pair_count or rng.random() < config.synthetic_share:
            pair = self.pair_count + int(rng.integers(self.drive_count))
        else:
            pair = int(rng.integers(self.pair_count))
        height, width = self._views[pair].shape[2:]
        window = draw_window(height, width, rng, config.crop_height, config.crop_width)
        orientation = Orientation.draw(rng, config.flips)
        source_light = side_light = _SAME_LIGHT
        if rng.random() < 0.5:  # one draw for both views: the scene's light, not the cameras' difference
            source_light = side_light = light_table(rng, 0.25)
        if rng.random() < 0.5:
            side_light = np.take_along_axis(light_table(rng, 0.06), side_light, axis=1)
        present = bool(rng.random() >= config.side_dropout)
        level = int(rng.integers(levels))
        side = None
        if config.faulty_share and rng.random() < config.faulty_share:
            window, side = self._draw_faulty(pair, window, config, rng)
        return Sample(pair, window, orientation, source_light, side_light, present, level, side)

    def _draw_faulty(
        self, pair: int, window: Window, config: TrainConfig, rng: np.random.Generator
    ) -> tuple[Window, Side]:
        """The source's window and useless side information for it."""
        fault = config.faults[int(rng.integers(len(config.faults)))]
        if fault == "rows":
            rows = int(np.exp(rng.uniform(0, np.log(12)))) * int(rng.choice((-1, 1)))
            return window, Side(pair, window, rows=rows)
        if fault == "late":  # either view is the later one
            later = zoomed(window, rng)
            return (later, Side(pair, window)) if rng.random() < 0.5 else (window, Side(pair, later))
        if fault == "pair":
            pair = int(rng.integers(len(self._views)))
        height, width = self._views[pair].shape[2:]
        other = draw_window(height, width, rng, config.crop_height, config.crop_width)
        return window, Side(pair, other, black=fault == "black")

    def batch(self, config: TrainConfig, levels: int, step: int, ranks: Ranks | None = None) -> Batch:
        """The batch of `step`; of several `ranks` each gets its share of it, in their order."""
        samples = self.draw(config, levels, step)[(ranks or Ranks()).share(config.batch_size)]
        views = torch.stack([self._cut(sample, config) for sample in samples], 1).round().long()
        lights = self._upload(np.stack([[s.source_light for s in samples], [s.side_light for s in samples]]))
        lit = lights.gather(3, views.flatten(3)).view_as(views).float() / 255
        return Batch(
            lit[0],
            lit[1],
            self._upload(np.array([s.present for s in samples], np.float32)),
            self._upload(np.array([s.level for s in samples], np.int64)),
        )

    def _cut(self, sample: Sample, config: TrainConfig) -> Tensor:
        """Source and side information [2, 3, H, W] of a sample, in grey levels."""
        views = sample.orientation.apply(self._resized(sample.pair, sample.window, config))
        if sample.side:
            other = sample.orientation.apply(self._resized(sample.side.pair, sample.side.window, config))
            views[1] = 0 if sample.side.black else moved(other[1], sample.side.rows)
        return views

    def _resized(self, pair: int, at: Window, config: TrainConfig) -> Tensor:
        """A window of both views of a pair, in grey levels: [2, 3, H, W]."""
        views = self._views[pair][..., at.top : at.top + at.height, at.left : at.left + at.width]
        size = (config.crop_height, config.crop_width)
        return F.interpolate(views.float(), size, mode="bilinear", antialias=True)

    def _upload(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":  # from pinned memory a copy does not wait for the work under way
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


_SAME_LIGHT: Table = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
