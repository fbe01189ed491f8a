"""Gradient compression for distributed training (the paper's last experiment).

Run as `python -m training.experiments.gradients --mnist mnist.npz`; every part is kept and not done again.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.experiments.gradients import digits, figures
from training.experiments.gradients.baselines import NormSampling, Nothing, Qsgd, RandomK, TopK
from training.experiments.gradients.codes import CodeCompressor, gradient_code
from training.experiments.gradients.comparison import Curves, Heldout, curves, heldout
from training.experiments.gradients.trajectories import Compressor, TrainingConfig, collect_gradients
from training.experiments.recipe import (
    Advance,
    RecipeError,
    Results,
    advance_of,
    pick_device,
    run,
    save_csv,
    use_threads,
)
from training.gradients.code import GradientCode, GradientCodeConfig
from training.paper.convolutional import Mode
from training.paper.fitting import FitConfig, Fitted

FIT_SEED, HELDOUT_SEED, COMPARE_SEED = 0, 10_000, 20_000
"""First seeds of the runs whose gradients are fitted on, of held-out runs, and of the runs that are compared."""


@dataclass(frozen=True)
class Dials:
    """What a run of the recipe is made of."""

    bits: int = 320
    """Of a learned code's message, its scale included."""
    runs: int = 32
    """Whose gradients the codes are fitted on (paper: 120)."""
    run_steps: int = 1000
    heldout_runs: int = 6
    fit_steps: int = 18_000
    fit_batch: int = 128
    codes: int = 1
    """Fitted for each mode, from seeds of their own; the compared runs take turns with them."""
    hidden: int = GradientCodeConfig.hidden
    seeds: int = 20
    steps: int = 1000
    """Of a compared run (paper: 2500)."""
    batch_size: int = 300
    sampled: int = 46
    """Coordinates that norm-proportional sampling sends on average: as many as fit."""


SMOKE = Dials(
    runs=4,
    run_steps=40,
    heldout_runs=2,
    fit_steps=100,
    fit_batch=64,
    codes=2,
    hidden=128,
    seeds=2,
    steps=50,
    batch_size=100,
    sampled=38,
)


@dataclass(frozen=True)
class Gradients:
    """Gradients [R, steps, 2, 412] of both workers."""

    fit: Tensor
    """Of the runs that codes are fitted on."""
    unseen: Tensor
    """Of runs from other starts on other digits."""
    seconds: float


def gradients(split: digits.Split, dials: Dials, file: Path, advance: Advance) -> Gradients:
    """Train without compression and keep every gradient, or read `file` when it holds these runs already."""
    settings = json.dumps([dials.runs, dials.heldout_runs, dials.run_steps, dials.batch_size])
    if file.exists():
        with safe_open(file, framework="pt") as opened:
            record = opened.metadata()
        if record.get("settings") == settings:
            kept = load_file(file, device=str(split.fit.labels.device))
            return Gradients(kept["fit"], kept["heldout"], float(record["seconds"]))
    started = time.monotonic()
    config = TrainingConfig(dials.run_steps, dials.batch_size)
    fit = collect_gradients(split.fit, seeds(FIT_SEED, dials.runs), config)
    advance(dials.runs, dials.runs + dials.heldout_runs)
    unseen = collect_gradients(split.evaluate, seeds(HELDOUT_SEED, dials.heldout_runs), config)
    found = Gradients(fit, unseen, time.monotonic() - started)
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"fit": fit, "heldout": unseen}
    save_file(tensors, file, metadata={"settings": settings, "seconds": str(found.seconds)})
    return found


def seeds(first: int, count: int) -> list[int]:
    """`count` seeds from `first` on."""
    return list(range(first, first + count))


def fit_code(
    fit_on: Tensor, dials: Dials, mode: str, seed: int, work: Path, advance: Advance
) -> tuple[GradientCode, Fitted]:
    """A code of one mode, kept in `work` for use in other jobs as well."""
    code, fitted = gradient_code(
        fit_on,
        GradientCodeConfig(positions=dials.bits // 8 - 1, hidden=dials.hidden, mode=mode),
        FitConfig(
            steps=dials.fit_steps,
            learning_rate=2e-3,
            commitment=0.15,
            unquantized_steps=200,
            seed=seed,
        ),
        batch_size=dials.fit_batch,
        made_with={"runs": dials.runs, "run_steps": dials.run_steps, "run_batch_size": dials.batch_size},
        directory=work / f"code-{mode}-{seed}",
        progress=advance,
    )
    code.save(
        work / f"{mode}-{seed}.safetensors",
        {"fitted_on": "gradients of the MNIST classifier", **asdict(dials)},
    )
    return code, fitted


def baselines(dials: Dials) -> dict[str, Compressor]:
    """Sizes fill 320 bits as far as they go; `table.csv` has what was sent."""
    return {
        "top-k": TopK(14),
        "top-k, memory": TopK(14, memory=True),
        "top-k, filled": TopK(14, filled=True),
        "random-k": RandomK(20),
        "random-k, filled": RandomK(20, filled=True),
        "QSGD": Qsgd(3),
        "norm sampling": NormSampling(dials.sampled),
        figures.ALONE: Nothing(),
    }


def check(runs: dict[str, Curves], errors: dict[str, Heldout], bits: int) -> None:
    """Raises RecipeError when results cannot be right."""
    for name, found in runs.items():
        if not bool(found.losses.isfinite().all()):
            raise RecipeError(f"{name}: the training loss is not finite")
        if float(found.losses[:, -5:].mean()) > float(found.losses[:, :5].mean()):
            raise RecipeError(f"{name}: the training loss did not fall")
        if name != figures.WHOLE and found.bits > bits:
            raise RecipeError(f"{name}: {found.bits:.0f} bits a step, more than {bits}")
    for mode in Mode:
        if float(errors[mode.value].loud_error.mean()) >= 1:
            raise RecipeError(f"{mode.value}: decodes worse than zeros on held-out runs; fit it longer")


def main(
    mnist: Annotated[Path | None, typer.Option(help="mnist.npz, or the folder of the idx files.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/gradients"),
    smoke: Annotated[bool, typer.Option(help="The same code in seconds, on made-up digits.")] = False,
    bits: Annotated[int, typer.Option(help="Of a message, in whole bytes.")] = Dials.bits,
    runs: Annotated[
        int, typer.Option(help="Training runs whose gradients the codes are fitted on.")
    ] = Dials.runs,
    fit_steps: Annotated[int, typer.Option(help="Steps of fitting one code.")] = Dials.fit_steps,
    seed_count: Annotated[int, typer.Option("--seeds", help="Runs for each compressor.")] = Dials.seeds,
    steps: Annotated[int, typer.Option(help="Steps of each of those runs.")] = Dials.steps,
    codes: Annotated[int, typer.Option(help="Codes fitted for each mode.")] = Dials.codes,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Make this compressor's runs and no table, to work on several side by side; repeatable."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; more are seldom faster. 0: torch's choice.")] = 1,
) -> None:
    """Joint, distributed and separate codes, and codes without learning, in training with two workers."""
    use_threads(threads)
    place = pick_device(device)
    if bits % 8 or bits < 16:
        raise RecipeError(f"--bits {bits}: give a multiple of 8, at least 16")
    if not 1 <= codes <= seed_count:
        raise RecipeError(f"--codes {codes}: give 1 to the number of --seeds, {seed_count}")
    if smoke:
        dials, split = SMOKE, digits.synthetic(800)
    elif mnist is None:
        raise RecipeError("give --mnist with mnist.npz or the folder of the idx files, or --smoke")
    else:
        dials = Dials(bits=bits, runs=runs, fit_steps=fit_steps, codes=codes, seeds=seed_count, steps=steps)
        split = digits.mnist(mnist)
    modes = [mode.value for mode in Mode]
    names = [figures.WHOLE, *modes, *(f"{mode}, corrected" for mode in modes), *baselines(dials)]
    if unknown := sorted(set(only or []) - set(names)):
        raise RecipeError(f"--only {unknown[0]}: the compressors are {', '.join(names)}")
    split = split.to(place)
    work = output / "parts"
    found: dict[str, Curves] = {}
    errors: dict[str, Heldout] = {}
    fits: dict[str, list[tuple[GradientCode, Fitted]]] = {}
    kept: Gradients | None = None
    with Progress(console=Console(stderr=True)) as progress:
        for name in only or names:
            compressor: Compressor | None = baselines(dials).get(name)
            mode, _, corrected = name.partition(", ")
            if mode in modes:
                kept = kept or gradients(
                    split, dials, work / "gradients.safetensors", advance_of(progress, "gradients")
                )
                if mode not in fits:
                    fits[mode] = [
                        fit_code(
                            kept.fit, dials, mode, seed, work, advance_of(progress, f"{mode} code {seed}")
                        )
                        for seed in range(dials.codes)
                    ]
                compressor = CodeCompressor(*(code for code, _ in fits[mode]), corrected=bool(corrected))
            found[name] = curves(
                split,
                seeds(COMPARE_SEED, dials.seeds),
                TrainingConfig(dials.steps, dials.batch_size),
                compressor,
                every=max(1, dials.steps // 10),
                file=work / "curves" / f"{name.replace(',', '').replace(' ', '-')}.safetensors",
                progress=advance_of(progress, name),
            )
            if kept is not None and compressor is not None and not only:
                errors[name] = heldout(kept.unseen, compressor)
    if only or kept is None:
        return
    seconds = kept.seconds + sum(run.seconds for run in found.values())
    seconds += sum(fitted.seconds for codes_of in fits.values() for _, fitted in codes_of)
    check(found, errors, dials.bits)
    rows = figures.table(found, errors)
    notes = [
        f"codes fitted on {dials.runs} runs of {dials.run_steps} steps (paper: 120 of 1000), "
        f"{dials.fit_steps} steps of {dials.fit_batch} (paper: 500 epochs of batch 64)",
        f"{dials.codes} codes for each mode; run r of a compressor uses code r mod {dials.codes}",
        f"{dials.seeds} seeds of {dials.steps} steps compared (paper: 20 of 2500)",
        "_95: half of the 95 % interval over seeds (Student's t); differences are paired by seed",
    ]
    Results("gradients", asdict(dials), smoke, device, rows, notes, seconds).save(output)
    save_csv(figures.by_code(found, modes, dials.codes), output / "codes.csv")
    figures.plots(found, modes, output)


if __name__ == "__main__":
    run(main)
