"""Training data: stereo pairs in memory, and batches that are a pure function of (seed, step).

A batch needs no loader state, so a resumed run sees exactly the samples the unbroken run would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ndsc.codec.frames import read_image
from ndsc.evaluate.pairs import PairsError, list_pairs
from ndsc.scene import SceneConfig, StereoScene
from training.config import TrainConfig

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
        unfinished = cached.with_suffix(".part.npy")
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


@dataclass(frozen=True)
class Batch:
    """One step's samples: `source` and `side` uint8 [B, H, W, 3], `present` float32 [B], `level` int64 [B]."""

    source: Frame
    side: Frame
    present: npt.NDArray[np.float32]
    level: npt.NDArray[np.int64]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(source, side) float32 [B, 3, H, W] in [0, 1], present, level, on `device`."""

        def image(array: Frame) -> Tensor:
            return torch.from_numpy(array).to(device).permute(0, 3, 1, 2).float() / 255

        return (
            image(self.source),
            image(self.side),
            torch.from_numpy(self.present).to(device),
            torch.from_numpy(self.level).to(device),
        )


def crop_pair(pair: Pair, rng: np.random.Generator, height: int, width: int) -> tuple[Frame, Frame]:
    """One random window of both views, resized to height×width.

    Half of the windows are nearly as high as the frame (the `kitti128` protocol looks like this), the others of
    any size down to native resolution.
    """
    full_height, full_width = pair.left.shape[:2]
    largest = min(full_height, full_width * height / width)
    smallest = min(height, largest)
    if rng.random() < 0.5:
        window_height = largest * rng.uniform(0.9, 1.0)
    else:
        window_height = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    window_width = min(window_height * width / height * rng.uniform(0.9, 1.1), full_width)
    top = rng.uniform(0, full_height - window_height)
    left = rng.uniform(0, full_width - window_width)
    box = (left, top, left + window_width, top + window_height)

    def window(frame: Frame) -> Frame:
        resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(resized)

    return window(pair.left), window(pair.right)


def jitter(frame: Frame, rng: np.random.Generator, strength: float) -> Frame:
    """Exposure, gamma and colour balance moved a little: cameras of one rig never agree exactly."""
    gamma = np.exp(rng.uniform(-strength, strength))
    gains = np.exp(rng.uniform(-strength, strength)) * np.exp(rng.uniform(-strength / 3, strength / 3, 3))
    table = (np.arange(256) / 255)[:, None] ** gamma * gains
    table = np.rint(np.clip(table, 0, 1) * 255).astype(np.uint8)
    return np.stack([table[frame[..., c], c] for c in range(3)], axis=-1)


def orient(left: Frame, right: Frame, rng: np.random.Generator) -> tuple[Frame, Frame]:
    """Source and side information of a pair: as it is, mirrored, or the other way round.

    A horizontal flip mirrors both views *and swaps them*: only then does a near object still stand further to
    the left in the second view. One sample in eight is swapped without a mirror, so that a right camera can be a
    source too.
    """
    draw = rng.random()
    if draw < 0.125:
        return right, left
    if draw < 0.5625:
        return right[:, ::-1], left[:, ::-1]
    return left, right


def make_batch(
    pairs: Sequence[Pair], drives: Sequence[Pair], config: TrainConfig, levels: int, step: int
) -> Batch:
    """The batch of `step`: depends on the arguments alone."""
    rng = np.random.default_rng((config.seed, step))
    sources, sides = [], []
    for _ in range(config.batch_size):
        from_drives = not pairs or rng.random() < config.synthetic_share
        pool = drives if from_drives else pairs
        views = crop_pair(pool[int(rng.integers(len(pool)))], rng, config.crop_height, config.crop_width)
        source, side = orient(*views, rng)
        shared = int(rng.integers(2**32))
        if rng.random() < 0.5:  # one draw for both views: the scene's light, not the cameras' difference
            source, side = (jitter(v, np.random.default_rng(shared), 0.25) for v in (source, side))
        if rng.random() < 0.5:
            side = jitter(side, rng, 0.06)
        sources.append(source)
        sides.append(side)
    present = (rng.random(config.batch_size) >= config.side_dropout).astype(np.float32)
    level = rng.integers(levels, size=config.batch_size)
    return Batch(np.stack(sources), np.stack(sides), present, level)


def batches(
    pairs: Sequence[Pair], drives: Sequence[Pair], config: TrainConfig, levels: int, first_step: int
) -> Iterator[Batch]:
    """Batches of `first_step` … `config.steps - 1`, the next one made while the current one is used."""
    if not pairs and not drives:
        raise ValueError("no training pairs and no synthetic drives")
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(make_batch, pairs, drives, config, levels, first_step)
        for step in range(first_step, config.steps):
            batch = upcoming.result()
            if step + 1 < config.steps:
                upcoming = pool.submit(make_batch, pairs, drives, config, levels, step + 1)
            yield batch
