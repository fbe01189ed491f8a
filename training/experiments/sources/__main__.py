"""`python -m training.experiments.sources`: joint, distributed and separate codes of halves of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.experiments import recipe
from training.experiments.fixed_rate import Setup, progress_bar, run_folder, train
from training.experiments.seeds import estimate, paired
from training.experiments.sources.data import (
    SETUPS,
    Splits,
    load_digits,
    load_faces,
    load_stereo,
    render_synthetic,
)
from training.experiments.sources.plot import plot
from training.paper.convolutional import Mode


@dataclass(frozen=True)
class Run:
    """One trained code: a data set, a codebook, a mode and a seed."""

    data: str
    bits: int
    mode: str
    seed: int
    total_bits: int
    mse: float
    psnr_db: float
    seconds: float


def main(
    celeba: Annotated[Path | None, typer.Option(help="CelebA-HQ: a folder or zip of its images.")] = None,
    stereo: Annotated[Path | None, typer.Option(help="Folder with train/, val/ and test/ of pairs.")] = None,
    mnist: Annotated[Path | None, typer.Option(help="mnist.npz, or the folder of the idx files.")] = None,
    bits: Annotated[list[int] | None, typer.Option(help="Bits of an index; again for more.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each code, 2 or more.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of each code.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows of one step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's, at its highest.")] = None,
    width: Annotated[float, typer.Option(help="All channel counts times this.")] = 1.0,
    layers: Annotated[int | None, typer.Option(help="Residual layers at each resolution.")] = None,
    split: Annotated[str, typer.Option(help="test, or val to choose settings.")] = "test",
    output: Annotated[Path, typer.Option(help="Folder of runs and results; finished runs are kept.")] = Path(
        "runs/sources"
    ),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves it to torch.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Everything in seconds, on synthetic drives.")] = False,
) -> None:
    """Train codes with y at both ends, at the decoder and at neither; MSE against bits, with bars over seeds."""
    recipe.use_threads(threads)
    where = recipe.pick_device(device)
    if split not in ("val", "test"):
        raise recipe.RecipeError(f"no split {split!r}; give test or val")
    names = [n for n, path in (("celeba", celeba), ("stereo", stereo), ("mnist", mnist)) if path]
    names = ["drive"] if smoke else names
    if not names:
        raise recipe.RecipeError("no data: give --celeba, --stereo or --mnist, or --smoke")
    dials = {
        "bits": tuple(bits) if bits else None,
        "seeds": seeds,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    given = {name: value for name, value in dials.items() if value is not None}
    setups = {name: replace(SETUPS[name], **given).scaled(width, layers) for name in names}  # type: ignore[arg-type]
    results = recipe.Results(
        "sources",
        {name: setup.to_dict() for name, setup in setups.items()} | {"split": split},
        smoke=smoke,
        device=device,
    )
    runs: list[Run] = []
    for name, setup in setups.items():
        with Console(stderr=True).status(f"reading {name}") as status:
            if name == "celeba" and celeba:
                splits = load_faces(celeba, split, status.update)
            elif name == "stereo" and stereo:
                splits = load_stereo(stereo, split, setup.window_px, status.update)
            elif name == "mnist" and mnist:
                splits = load_digits(mnist, split)
            else:
                splits = render_synthetic(setup.window_px)
        splits = Splits(splits.train.to(where), splits.test.to(where))
        results.notes.append(f"{name}: {len(splits.train)} training pictures, {len(splits.test)} to measure")
        runs += compare(name, setup, splits, output)
    results.rows = [row for name in names for row in summarise([r for r in runs if r.data == name])]
    results.seconds = sum(run.seconds for run in runs)
    if smoke:
        _check(results.rows)
    results.save(output)
    recipe.save_csv([asdict(run) for run in runs], output / "seeds.csv")
    plot(results.rows, output / "plot")
    print(recipe.markdown_table(results.rows))


def compare(name: str, setup: Setup, splits: Splits, output: Path) -> list[Run]:
    """Train and score every code of one data set."""
    folder = run_folder(output, name, setup, splits.train, splits.test)
    codes = [(b, mode, seed) for seed in range(setup.seeds) for b in setup.bits for mode in Mode]
    runs = []
    with progress_bar(len(codes) * setup.steps) as advance:
        for bits, mode, seed in codes:
            code = f"{bits}bit-{mode}-{seed}"
            trained = train(
                setup, splits.train, splits.test, setup.code(splits.train, bits, mode), seed, folder / code,
                lambda done, code=code: advance(code, done),  # type: ignore[misc]
            )  # fmt: skip
            got = trained.score
            runs.append(Run(name, bits, mode, seed, got.bits, got.mse, got.psnr_db, trained.seconds))
    return runs


def summarise(runs: Sequence[Run]) -> list[recipe.Row]:
    """One row for each codebook and mode of one data set, and the differences to distributed, seed by seed."""
    rows: list[recipe.Row] = []
    for bits in dict.fromkeys(run.bits for run in runs):
        by_mode = {mode: [r for r in runs if r.bits == bits and r.mode == mode] for mode in Mode}
        reference = by_mode[Mode.DISTRIBUTED]
        for mode, of_mode in by_mode.items():
            mse = estimate([r.mse for r in of_mode])
            psnr = estimate([r.psnr_db for r in of_mode])
            over = paired([r.psnr_db for r in of_mode], [r.psnr_db for r in reference])
            excess = paired([r.mse for r in of_mode], [r.mse for r in reference])
            other = mode is not Mode.DISTRIBUTED
            rows.append(
                {
                    "data": of_mode[0].data,
                    "bits": bits,
                    "total_bits": of_mode[0].total_bits,
                    "mode": mode.value,
                    "seeds": len(of_mode),
                    "mse": mse.mean,
                    "mse_se": mse.standard_error,
                    "psnr_db": psnr.mean,
                    "psnr_se_db": psnr.standard_error,
                    "mse_over_distributed": excess.mean if other else None,
                    "mse_over_distributed_ci95": excess.half_width if other else None,
                    "psnr_over_distributed_db": over.mean if other else None,
                    "psnr_over_distributed_ci95_db": over.half_width if other else None,
                    "clear": excess.clear if other else None,
                }
            )
    return rows


def _check(rows: Sequence[recipe.Row]) -> None:
    """What even seconds of training must show. Raises RecipeError."""
    psnr = {str(row["mode"]): float(row["psnr_db"] or 0) for row in rows}
    if not all(8 < value < 40 for value in psnr.values()):
        raise recipe.RecipeError(f"PSNR cannot be right: {psnr}")
    if psnr[Mode.DISTRIBUTED] < psnr[Mode.SEPARATE] - 1 or psnr[Mode.JOINT] < psnr[Mode.SEPARATE] - 1:
        raise recipe.RecipeError(f"side information does harm: {psnr}")


if __name__ == "__main__":
    recipe.run(main)
