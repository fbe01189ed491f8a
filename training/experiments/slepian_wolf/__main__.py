"""`python -m training.experiments.slepian_wolf`: H(Z|Y) / H(Z) of a trained codec, and what coding would cost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Final

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ndsc.codec.frames import Frame, to_float
from training.checkpoint import Checkpoint, digest
from training.config import ModelConfig, ScalarConfig, TrainConfig
from training.data import TrainingData, fingerprint, load_pairs, render_drives
from training.experiments.recipe import (
    RecipeError,
    Results,
    Row,
    markdown_table,
    pick_device,
    run,
    use_threads,
)
from training.experiments.slepian_wolf.lengths import FAILURE, LOST, price
from training.experiments.slepian_wolf.network import ConditionalRate, Cost
from training.fitting import fit as fit_steps
from training.plotting import COLOURS, new_figure, save_figure
from training.scalar_codec import ScalarCodec, build
from training.validation import validation_views

WITH, WITHOUT = "y", "control"
"""What is trained: a model that sees y; the same one, with as many steps, that does not."""


@dataclass(frozen=True)
class Dials:
    """What a run of the recipe is made of."""

    steps: int = 2500
    batch_size: int = 8
    learning_rate: float = 2e-3
    width: int = 96
    seed: int = 0


SMOKE: Final = Dials(steps=12, batch_size=2, width=16)


@dataclass(frozen=True)
class Measured:
    """Of each frame at each level, bits: [N, levels]."""

    bits: NDArray[np.float64]
    """Under the codec's own rate model: H(Z)."""
    given: NDArray[np.float64]
    entropy: NDArray[np.float64]
    dispersion: NDArray[np.float64]


def fit(
    codec: ScalarCodec, data: TrainingData, dials: Dials, *, sees_y: bool, progress: Progress, name: str
) -> ConditionalRate:
    """Train the correction on the frozen codec's indices, for the mean of H(Z|Y) / H(Z).

    Raises TrainingError when the loss is not finite.
    """
    torch.manual_seed(dials.seed)
    model = ConditionalRate(codec, dials.width).to(data.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=dials.learning_rate, weight_decay=1e-4)
    config = TrainConfig(
        batch_size=dials.batch_size,
        side_dropout=0.0,
        synthetic_share=0.0 if data.pair_count else 1.0,
        seed=dials.seed,
    )
    task = progress.add_task(name, total=dials.steps)

    def loss_at(step: int) -> Tensor:
        batch = data.batch(config, codec.config.levels, step)
        numbers = model.indices(batch.source, batch.level)
        present = torch.full_like(batch.present, float(sees_y))
        cost: Cost = model(numbers, batch.side, batch.level, present)
        return (cost.given.sum((1, 2, 3)) / cost.own.sum((1, 2, 3))).mean()

    def advance(done: int, loss: float) -> None:
        progress.update(task, completed=done, description=f"{name}: {loss:.3f}")

    fit_steps(name, trained, optimizer, dials.steps, loss_at, advance)
    return model.eval()


def kept_or_fitted(
    codec: ScalarCodec,
    data: TrainingData,
    pictures: str,
    name: str,
    dials: Dials,
    folder: Path,
    progress: Progress,
) -> tuple[ConditionalRate, float]:
    """`WITH` or `WITHOUT`, on the CPU, and the seconds of its training.

    A finished one of the same codec, dials and `pictures` (their fingerprint) is taken from `folder`, a new one
    left there. Raises RecipeError when the one there cannot be read.
    """
    made_with = f"{name} {digest(codec.state_dict())} {pictures} {json.dumps(asdict(dials), sort_keys=True)}"
    kept = folder / f"{name}-{hashlib.sha256(made_with.encode()).hexdigest()[:8]}.safetensors"
    if kept.exists():
        return _kept(codec, dials, kept)
    started = perf_counter()
    model = fit(codec, data, dials, sees_y=name == WITH, progress=progress, name=name).cpu()
    took = perf_counter() - started
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(".part")
    save_file(_learned(model), unfinished, {"seconds": f"{took:.1f}"})
    unfinished.replace(kept)
    return model, took


def _learned(model: ConditionalRate) -> dict[str, Tensor]:
    return {name: part.detach() for name, part in model.named_parameters() if part.requires_grad}


def _kept(codec: ScalarCodec, dials: Dials, kept: Path) -> tuple[ConditionalRate, float]:
    model = ConditionalRate(codec, dials.width)
    try:
        weights = load_file(kept)
        with safe_open(kept, "pt") as file:
            seconds = float(file.metadata()["seconds"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise RecipeError(f"{kept} cannot be read: delete it ({error})") from error
    learned = _learned(model)
    if {name: part.shape for name, part in weights.items()} != {n: part.shape for n, part in learned.items()}:
        raise RecipeError(f"{kept} is of another version of this recipe: delete it")
    model.load_state_dict(weights, strict=False)  # the codec's own weights are not in it
    return model.eval(), seconds


@torch.no_grad()
def measure(model: ConditionalRate, pairs: list[tuple[Frame, Frame]], *, sees_y: bool) -> Measured:
    """Every left frame at every level."""
    found = np.empty((4, len(pairs), model.codec.config.levels))
    for i, views in enumerate(pairs):
        x, y = (torch.from_numpy(to_float(view))[None] for view in views)
        for level in range(model.codec.config.levels):
            at = torch.tensor([level])
            cost = model(model.indices(x, at), y, at, torch.tensor([float(sees_y)]))
            found[:, i, level] = [
                float(part.sum()) for part in (cost.own, cost.given, cost.entropy, cost.dispersion)
            ]
    return Measured(*found)


def ratio(
    part: NDArray[np.float64], whole: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Σ part / Σ whole of the same frames [N], and its 95 % bootstrap interval over frames."""
    rng, count = np.random.default_rng(seed), len(part)
    drawn = [rng.integers(count, size=count) for _ in range(resamples)]
    low, high = np.percentile([part[one].sum() / whole[one].sum() for one in drawn], [2.5, 97.5])
    return float(part.sum() / whole.sum()), float(low), float(high)


def table(measured: dict[str, Measured], pixels: int) -> list[Row]:
    """A row for each level, of frames of `pixels` in all, in shares of the codec's own bits but for `y_alone`.

    `given_y` and `control` are what the two models need: no less than H(Z|Y) and H(Z); longer training may find
    less. `y_alone` is the one over the other: what y tells beyond a larger network. `_low` and `_high` are 95 %
    intervals over frames. `calibration` is realised over expected bits of the model with y.
    """
    rows: list[Row] = []
    seen, control = measured[WITH], measured[WITHOUT]
    for level in range(seen.bits.shape[1]):
        bits, given, entropy, dispersion = (
            part[:, level] for part in (seen.bits, seen.given, seen.entropy, seen.dispersion)
        )
        row: dict[str, str | float | int | bool | None] = {
            "rate_level": level,
            "bpp": float(bits.sum() / pixels),
        }
        blind = control.given[:, level]
        for name, part, whole in (
            ("given_y", given, bits),
            ("control", blind, bits),
            ("y_alone", given, blind),
        ):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ratio(part, whole), strict=True))
        its = price(bits, given, dispersion)
        row |= {
            "one_frame_a_block": its.finite,
            "encoder_sees_x_alone": its.blind,
            "calibration": float(given.sum() / entropy.sum()),
        }
        rows.append(row)
    return rows


def plot(rows: list[Row], output: Path) -> None:
    """Bits against the codec's own."""
    figure, axes = new_figure()
    rates = [float(row["bpp"] or 0) for row in rows]
    lines = {
        "control": "control: as much network, no y",
        "given_y": "given y: H(Z|Y) or more",
        "one_frame_a_block": f"one frame a block, {FAILURE:g} of them lost",
        "encoder_sees_x_alone": f"the encoder sees x alone, {LOST:g} of the frames lost",
    }
    for i, (column, label) in enumerate(lines.items()):
        axes.plot(rates, [float(row[column] or 0) for row in rows], marker="o", color=COLOURS[i], label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xlabel("H(Z), bits a pixel")
    axes.set_ylabel("bits against H(Z)")
    axes.legend(fontsize=8)
    save_figure(figure, output)


def main(
    model: Annotated[Path, typer.Option(help="Weights of a scalar codec.")] = Path("models/rate-distortion"),
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Pairs to train on, DIR/left and DIR/right.")
    ] = None,
    test_pairs: Annotated[list[Path] | None, typer.Option(help="Pairs to measure; repeatable.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/slepian_wolf"),
    smoke: Annotated[bool, typer.Option(help="Everything in seconds, on synthetic drives.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Of training each of two models.")] = Dials.steps,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at its highest.")] = Dials.learning_rate,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 1,
) -> None:
    """Train models of the indices with y and without, and compare them with the codec's own."""
    use_threads(threads)
    place = pick_device(device)
    dials = SMOKE if smoke else replace(Dials(), steps=steps, learning_rate=learning_rate)
    if smoke:
        torch.manual_seed(0)
        codec = build(
            ModelConfig(
                quantizer="scalar",
                channels=16,
                quarter_channels=8,
                encoder_channels=16,
                latent_dimension=4,
                scalar=ScalarConfig(levels=2, hidden=16),
            )
        )
        drives = render_drives(3, seed=5)
        seen, data = drives[:2], TrainingData([], drives[:2], place)
        held_out = validation_views(drives[2:])
    elif pairs and test_pairs:
        codec = Checkpoint.load(model).averaged_model()
        seen = load_pairs(pairs)
        data = TrainingData(seen, [], place)
        held_out = validation_views(load_pairs(test_pairs))
    else:
        raise RecipeError("give --pairs and --test-pairs, or --smoke")
    if not isinstance(codec, ScalarCodec):
        raise RecipeError(f"{model}: its codec has no rate model; give weights of --quantizer scalar")
    measured: dict[str, Measured] = {}
    seconds = 0.0
    with Progress(console=Console(stderr=True)) as progress:
        for name in (WITH, WITHOUT):
            fitted, took = kept_or_fitted(
                codec, data, fingerprint(seen), name, dials, output / "models", progress
            )
            started = perf_counter()
            measured[name] = measure(fitted, held_out, sees_y=name == WITH)
            seconds += took + perf_counter() - started
    rows = table(measured, sum(source.shape[0] * source.shape[1] for source, _ in held_out))
    notes = [
        f"{len(held_out)} frames; ratios to the bits of the codec's own rate model on the same indices",
        f"blocks: normal approximation, {FAILURE:g} of the frames lost",
        f"an encoder that sees x alone: H(Z) times the largest share that all but {LOST:g} of the frames needed",
    ]
    settings = asdict(dials) | {"weights": digest(codec.state_dict())[:16]}
    Results("slepian_wolf", settings, smoke, device, rows, notes, seconds).save(output)
    plot(rows, output / "plot")
    print(markdown_table(rows))


if __name__ == "__main__":
    run(main)
