"""What the latent prior saves, in bytes: `python -m training.rates BUNDLE --pairs DIR --training INDICES …`.

For each rate level: fixed length, a static table (real bytes under the training set's frequencies), the bundle's
prior (real bytes, and the ideal under its own probabilities), and the paper's transformer (ideal, never bytes).
Only left frames are coded: they are the sources.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
import typer

from ndsc.codec.bitstream import PAYLOAD_CRC_BYTES, decode_payload, encode_payload
from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import NdscError
from ndsc.codec.frames import Grid
from ndsc.codec.prior import StaticPrior
from ndsc.codec.runtime import EncoderSession, RuntimeOptions
from ndsc.evaluate.protocols import PROTOCOLS
from training.data import load_pairs
from training.indices import WINDOW, IndexGrids, encode, residual_bundle
from training.paper.prior import CausalTransformer, bits_per_index
from training.paper.prior import load as load_transformer

TIMED_RUNS = 7


@dataclass(frozen=True)
class Row:
    """One rate level over a set of frames; bytes and bits are means for each frame."""

    rate_level: int
    frames: int
    grid: tuple[int, int]
    fixed_bytes: float
    static_bytes: float
    payload_bytes: float
    """Of the bundle's prior: coded bytes and the CRC."""
    ideal_bytes: float
    overhead_bytes: float
    """Coded bytes over the ideal, the CRC left out."""
    transformer_ideal_bytes: float | None
    saving: float
    """Of the payload, CRC included, against fixed length."""
    transformer_saving: float | None
    share_of_transformer: float | None
    """Our saving in real bytes over its ideal one."""
    passes: int
    encode_ms: tuple[float, float, float]
    """Indices → payload, one thread: median, fastest and slowest of frames' medians."""
    decode_ms: tuple[float, float, float]


def _times(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def tiles(grid: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """The whole 16×32 windows of a grid [S, h, w], from its top left: [N, S, 16, 32]."""
    rows, columns = grid.shape[1] // WINDOW[0], grid.shape[2] // WINDOW[1]
    part = grid[:, : rows * WINDOW[0], : columns * WINDOW[1]]
    split = part.reshape(len(grid), rows, WINDOW[0], columns, WINDOW[1])
    return split.transpose(1, 3, 0, 2, 4).reshape(-1, len(grid), *WINDOW)


def measure(
    bundle: Bundle,
    grids: Sequence[npt.NDArray[np.uint16]],
    static: StaticPrior,
    references: Sequence[CausalTransformer],
    timed_frames: int,
) -> list[Row]:
    """Rows of every rate level for grids of one size; a transformer for each of the first stages, or none."""
    rows = []
    bitstream, prior = bundle.bitstream, bundle.prior
    windows = [tiles(grid) for grid in grids]
    # Bits of an index of each stage, of each frame: of a larger frame, over its whole windows.
    reference_bits = [
        np.mean([bits_per_index(model, window).mean() for window in windows]) for model in references
    ]
    height, width = grids[0].shape[1:]
    for level, stages in enumerate(bitstream.rate_levels):
        positions = height * width
        fixed = sum(math.log2(size) for size in prior.codebook_sizes[:stages]) * positions / 8
        static_bytes, payload_bytes, ideal_bytes, encode_ms, decode_ms = [], [], [], [], []
        for number, grid in enumerate(grids):
            indices = grid[:stages].astype(np.int32)
            payload = encode_payload(indices, level, bitstream)
            if not np.array_equal(decode_payload(payload, Grid(height, width), level, bitstream), indices):
                raise NdscError("a payload does not give its indices back")
            payload_bytes.append(len(payload))
            static_bytes.append(len(static.encode(indices)) + PAYLOAD_CRC_BYTES)
            ideal_bytes.append(prior.ideal_bits(indices) / 8)
            if number < timed_frames:
                encode_ms.append(_times(lambda: encode_payload(indices, level, bitstream)))  # noqa: B023
                decode_ms.append(
                    _times(lambda: decode_payload(payload, Grid(height, width), level, bitstream))  # noqa: B023
                )
        mean_payload, mean_ideal = statistics.mean(payload_bytes), statistics.mean(ideal_bytes)
        theirs = sum(reference_bits[:stages]) * positions / 8 if len(references) >= stages else None
        saving = 1 - mean_payload / fixed
        rows.append(
            Row(
                rate_level=level,
                frames=len(grids),
                grid=(height, width),
                fixed_bytes=fixed,
                static_bytes=statistics.mean(static_bytes),
                payload_bytes=mean_payload,
                ideal_bytes=mean_ideal,
                overhead_bytes=mean_payload - PAYLOAD_CRC_BYTES - mean_ideal,
                transformer_ideal_bytes=theirs,
                saving=saving,
                transformer_saving=None if theirs is None else 1 - theirs / fixed,
                share_of_transformer=None if theirs is None else saving / (1 - theirs / fixed),
                passes=len(prior.passes(stages)),
                encode_ms=_spread(encode_ms),
                decode_ms=_spread(decode_ms),
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| level | frames | grid | fixed B | static table B | ours, payload B | ideal B | over ideal | "
        "transformer ideal B | saving | its saving | share | passes | encode ms | decode ms |",
        "|" + "---|" * 15,
    ]
    for row in rows:
        theirs = ["–"] * 3
        if row.transformer_ideal_bytes is not None and row.transformer_saving is not None:
            assert row.share_of_transformer is not None
            theirs = [
                f"{row.transformer_ideal_bytes:.1f}",
                f"{100 * row.transformer_saving:.1f} %",
                f"{100 * row.share_of_transformer:.1f} %",
            ]
        over = f"{row.overhead_bytes:.1f} B, {100 * row.overhead_bytes / row.ideal_bytes:.2f} %"
        times = [f"{ms[0]:.1f} ({ms[1]:.1f}–{ms[2]:.1f})" for ms in (row.encode_ms, row.decode_ms)]
        cells = [
            row.rate_level,
            row.frames,
            f"{row.grid[0]}×{row.grid[1]}",
            f"{row.fixed_bytes:.0f}",
            f"{row.static_bytes:.1f}",
            f"{row.payload_bytes:.1f}",
            f"{row.ideal_bytes:.1f}",
            over,
            theirs[0],
            f"{100 * row.saving:.1f} %",
            theirs[1],
            theirs[2],
            row.passes,
            *times,
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle to measure.")],
    pairs: Annotated[list[Path], typer.Option(help="Directories of pairs, each with left/ and right/.")],
    training: Annotated[Path, typer.Option(help="Training grids of training.indices, for the static table.")],
    reference: Annotated[
        list[Path] | None, typer.Option(help="Transformers of the first stages, in order.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="kitti128 or native.")] = "kitti128",
    timed_frames: Annotated[int, typer.Option(help="Frames to time, 7 runs each.")] = 10,
    json_output: Annotated[Path | None, typer.Option("--json", help="Write the rows here too.")] = None,
) -> None:
    """Measure rates and times; frames of each size get their own rows."""
    torch.set_num_threads(1)
    loaded = residual_bundle(bundle)
    loaded.check_golden()
    session = EncoderSession(loaded.encoder_onnx, RuntimeOptions(threads=1))
    by_size: dict[tuple[int, ...], list[npt.NDArray[np.uint16]]] = {}
    for pair in load_pairs(pairs):
        grid = encode(session, PROTOCOLS[protocol](pair.left), loaded.geometry.stride)
        by_size.setdefault(grid.shape[1:], []).append(grid)
    counts = [np.zeros(size, np.int64) for size in loaded.prior.codebook_sizes]
    for grid in IndexGrids.load(training).grids:
        for stage, count in zip(grid, counts, strict=True):
            count += np.bincount(stage.ravel(), minlength=count.size)
    static = StaticPrior.from_counts(counts)
    references = [load_transformer(directory) for directory in reference or []]
    rows: list[Row] = []
    for grids in by_size.values():
        rows += measure(loaded, grids, static, references, timed_frames)
    facts: dict[str, Any] = {
        "bundle": loaded.bundle_id,
        "protocol": protocol,
        "machine": f"{platform.machine()}, {platform.processor() or 'unknown processor'}",
        "onnxruntime": onnxruntime.__version__,
    }
    print(f"bundle {loaded.bundle_id[:16]}, protocol {protocol}, one thread, {facts['machine']}\n")
    print(table(rows))
    if json_output:
        json_output.parent.mkdir(parents=True, exist_ok=True)
        json_output.write_text(json.dumps(facts | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (NdscError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
