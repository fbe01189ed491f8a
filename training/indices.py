"""Index grids for a latent prior: `python -m training.indices BUNDLE --pairs DIR … -o FILE`.

A bundle's own encoder (onnxruntime, as on a camera node) codes views of every frame once; both priors, ours
and the paper's transformer, then train on the same file. Half of the views imitate the `kitti128` protocol
(a window nearly as high as the frame, scaled to 128 rows by 256 columns), the others are whole frames at
several scales, since a prior must serve any grid. Views are mirrored at random: a left camera's mirrored
frame looks like a right camera's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image
from rich.progress import track

from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import BundleError, NdscError
from ndsc.codec.frames import pad, to_float
from ndsc.codec.runtime import EncoderSession, RuntimeOptions
from ndsc.evaluate.protocols import KITTI128_HEIGHT, KITTI128_WIDTH
from training.data import Frame, jitter, load_pairs, render_drives

WHOLE_FRAME_SCALES: Final = (1.0, 1.0, 0.7, 0.5)
"""Scales of the whole-frame views of one frame; a repeated scale gets another sub-stride offset."""

WINDOW: Final = (16, 32)
"""Rows and columns of a prior's training sample: the grid of a 128×256 frame."""

_SHIFT_PX: Final = 8
"""Whole frames lose a random 0 to 7 px at the top and left, so that the index grid lands anywhere."""


@dataclass(frozen=True)
class IndexGrids:
    """Index grids of many views, all stages of each."""

    grids: tuple[npt.NDArray[np.uint16], ...]
    """Each uint16 [S, h, w]."""

    def save(self, path: Path) -> None:
        """Write as one compressed .npz, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        shapes = np.array([grid.shape for grid in self.grids], dtype=np.int32)
        flat = np.concatenate([grid.ravel() for grid in self.grids])
        np.savez_compressed(unfinished, shapes=shapes, indices=flat)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises OSError, and ValueError when the file is something else."""
        with np.load(path, allow_pickle=False) as stored:
            if set(stored.files) != {"shapes", "indices"}:
                raise ValueError(f"{path} is not a file of training.indices")
            shapes, flat = stored["shapes"], stored["indices"]
        ends = np.cumsum(shapes.prod(axis=1))
        parts = np.split(flat, ends[:-1])
        return cls(tuple(p.reshape(s).astype(np.uint16) for p, s in zip(parts, shapes, strict=True)))

    def of_size(self, height: int, width: int) -> npt.NDArray[np.uint16]:
        """All grids of exactly this size: [N, S, height, width]."""
        return np.stack([grid for grid in self.grids if grid.shape[1:] == (height, width)])

    def larger_than(self, height: int, width: int) -> list[npt.NDArray[np.uint16]]:
        """The grids that hold a window of this size and are not of this size."""
        return [
            grid
            for grid in self.grids
            if grid.shape[1] >= height and grid.shape[2] >= width and grid.shape[1:] != (height, width)
        ]


@dataclass(frozen=True)
class GridBatch:
    """Index grids or windows of them, and where each lies in its frame's grid."""

    indices: npt.NDArray[np.uint16]
    """[B, S, h, w]."""
    top: npt.NDArray[np.int64]
    """[B]; a multiple of 4, so that a window is made of whole cells of the prior's coding order."""
    frame_height: npt.NDArray[np.int64]
    """[B] rows of the whole frame's grid."""


@dataclass(frozen=True)
class GridSampler:
    """Draws equal-sized samples: whole grids of the window's size, and windows of larger grids."""

    grids: IndexGrids
    window: tuple[int, int]
    """Rows and columns, both multiples of 4."""
    protocol_share: float
    """Share of samples that are whole grids."""

    def sample(self, rng: np.random.Generator, count: int) -> GridBatch:
        """`count` samples, a pure function of the generator's state."""
        height, width = self.window
        chosen, tops, heights = [], [], []
        for _ in range(count):
            whole = rng.random() < self.protocol_share
            pool = self._whole if whole else self._larger
            grid = pool[int(rng.integers(len(pool)))]
            top = 4 * int(rng.integers((grid.shape[1] - height) // 4 + 1))
            left = 4 * int(rng.integers((grid.shape[2] - width) // 4 + 1))
            chosen.append(grid[:, top : top + height, left : left + width])
            tops.append(top)
            heights.append(grid.shape[1])
        return GridBatch(np.stack(chosen), np.array(tops), np.array(heights))

    @cached_property
    def _whole(self) -> npt.NDArray[np.uint16]:
        return self.grids.of_size(*self.window)

    @cached_property
    def _larger(self) -> list[npt.NDArray[np.uint16]]:
        return self.grids.larger_than(*self.window)


def validation_batches(grids: IndexGrids, count: int) -> dict[str, GridBatch]:
    """Fixed validation samples, `count` each of views like `kitti128` and of windows of whole frames."""
    kinds = {"protocol": (1.0, 1), "whole": (0.0, 2)}
    return {
        name: GridSampler(grids, WINDOW, share).sample(np.random.default_rng(seed), count)
        for name, (share, seed) in kinds.items()
    }


def protocol_view(frame: Frame, rng: np.random.Generator) -> Frame:
    """A window like the `kitti128` protocol's, anywhere in the frame: uint8 [128, 256, 3]."""
    height, width = frame.shape[:2]
    largest = min(height, width * KITTI128_HEIGHT / KITTI128_WIDTH)
    window_height = largest * rng.uniform(0.85, 1.0)
    window_width = min(window_height * KITTI128_WIDTH / KITTI128_HEIGHT * rng.uniform(0.95, 1.05), width)
    top, left = rng.uniform(0, height - window_height), rng.uniform(0, width - window_width)
    box = (left, top, left + window_width, top + window_height)
    size = (KITTI128_WIDTH, KITTI128_HEIGHT)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, box=box))


def whole_view(frame: Frame, scale: float, rng: np.random.Generator) -> Frame:
    """The whole frame at `scale`, less up to 7 px at the top and left."""
    height, width = frame.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = (
        np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) if scale < 1 else frame
    )
    top, left = rng.integers(min(_SHIFT_PX, size[1])), rng.integers(min(_SHIFT_PX, size[0]))
    return scaled[top:, left:]


def views(frame: Frame, protocol_views: int, rng: np.random.Generator) -> Iterator[Frame]:
    """Every view of one frame, mirrored and re-exposed at random."""

    def vary(view: Frame) -> Frame:
        view = view[:, ::-1] if rng.random() < 0.5 else view
        return jitter(view, rng, 0.25) if rng.random() < 0.5 else view

    for _ in range(protocol_views):
        yield vary(protocol_view(frame, rng))
    for scale in WHOLE_FRAME_SCALES:
        yield vary(whole_view(frame, scale, rng))


def encode(session: EncoderSession, frame: Frame, stride: int) -> npt.NDArray[np.uint16]:
    """Indices of one frame, every stage: uint16 [S, h, w]."""
    tensor = to_float(pad(np.ascontiguousarray(frame), stride))[None]
    indices: npt.NDArray[np.uint16] = session.run(tensor)[0].astype(np.uint16)
    return indices


def residual_bundle(path: Path) -> Bundle:
    """A bundle whose levels send the first of the same stages. Raises BundleError for one of planes."""
    bundle = Bundle.load(path)
    if bundle.prior.rate_levels is not None:
        raise BundleError(
            f"{path}: each rate level has indices of its own, and its prior was trained with the codec; "
            "give a bundle of residual stages"
        )
    return bundle


def collect(
    bundle: Bundle, frames: Sequence[Frame], *, protocol_views: int, seed: int, threads: int
) -> IndexGrids:
    """Code every view of `frames` with the bundle's encoder."""
    session = EncoderSession(bundle.encoder_onnx, RuntimeOptions(threads=threads))
    grids = []
    for number, frame in enumerate(track(frames, "coding views", disable=not sys.stderr.isatty())):
        rng = np.random.default_rng((seed, number))
        grids += [encode(session, view, bundle.geometry.stride) for view in views(frame, protocol_views, rng)]
    return IndexGrids(tuple(grids))


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose indices are wanted.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .npz file to write.")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Directories of pairs, each with left/ and right/.")
    ] = None,
    synthetic: Annotated[int, typer.Option(help="Synthetic drives to add, one pair of views each.")] = 0,
    protocol_views: Annotated[
        int, typer.Option(help="Views like the kitti128 protocol for each frame.")
    ] = 40,
    seed: Annotated[int, typer.Option(help="Of the views.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes one for each core.")] = 0,
) -> None:
    """Code frames and keep their indices."""
    of_bundle = residual_bundle(bundle)
    loaded = load_pairs(pairs or [])
    if synthetic:
        loaded += render_drives(synthetic, seed=1000)
    if not loaded:
        sys.exit("error: no frames; name directories with --pairs, or ask for --synthetic drives")
    frames = [view for pair in loaded for view in (pair.left, pair.right)]
    grids = collect(of_bundle, frames, protocol_views=protocol_views, seed=seed, threads=threads)
    grids.save(output)
    positions = sum(grid[0].size for grid in grids.grids)
    print(f"{output}: {len(grids.grids)} grids, {positions} positions")


if __name__ == "__main__":
    try:
        typer.run(main)
    except NdscError as error:
        sys.exit(f"error: {error}")
