"""Train a codec: `python -m training.train --pairs DIR --output RUN`.

The loop is plain torch. A run is a directory with one checkpoint (replaced as it goes) and `log.jsonl`; started
again with the same `--output` it continues where it stopped, with the same losses as an unbroken run.

Under `torchrun --nproc-per-node N -m -- training.train …` N processes share each batch and take the steps that one
would take. Rank 0 alone validates and writes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ndsc.codec.errors import NdscError
from training.checkpoint import Checkpoint, CheckpointError, digest
from training.config import (
    ActivationKind,
    FaultKind,
    FlipKind,
    ModelConfig,
    OptimizerKind,
    Precision,
    QuantizerKind,
    ScalarConfig,
    TrainConfig,
)
from training.data import Frame, TrainingData, fingerprint, load_pairs, render_drives
from training.ranks import Ranks, RanksError
from training.run import PendingLoss, Run, StepLoss, TrainingError, pick_device, train
from training.validation import count_indices, validate, validation_views

DRIVES_SEED = 1000
"""Training drives start here; the demo's drive (seed 0) is never among them."""


def prepare_log(path: Path, step: int) -> None:
    """Drop what the log has beyond `step`, the checkpoint's: those steps are done again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept))


def log_line(losses: StepLoss, quantity: str) -> str:
    """One line of `log.jsonl`; `quantity` names the loss's other part."""
    record = {
        "step": losses.step,
        "loss": round(losses.loss, 5),
        "mse": losses.mse,
        quantity: round(losses.other, 5),
    }
    return json.dumps(record) + "\n"


def run_to_the_end(
    run: Run,
    data: TrainingData,
    val_frames: list[tuple[Frame, Frame]],
    output: Path,
    validate_every: int,
    console: Console,
) -> None:
    """Train; rank 0 logs, validates and keeps the checkpoint in `output`."""
    writer = run.ranks.rank == 0
    log_path = output / "log.jsonl" if writer else Path(os.devnull)
    if writer:
        output.mkdir(parents=True, exist_ok=True)
        prepare_log(log_path, run.step)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress, log_path.open("a", buffering=1) as log:
        task = progress.add_task("training", total=run.config.steps, completed=run.step)

        def report(pending: PendingLoss) -> None:
            losses = pending.read()
            progress.update(task, completed=losses.step, description=f"{losses.psnr:.2f} dB")
            log.write(log_line(losses, run.model.quantity))

        def validated(checkpoint: Checkpoint) -> None:
            scores = validate(checkpoint, val_frames, run.device)
            run.facts["validation"].append({"step": checkpoint.step, **scores})
            progress.console.print(f"step {checkpoint.step}: {scores}")
            checkpoint.save(output / "checkpoint")

        if (
            writer
            and val_frames
            and run.step
            and run.step not in {v["step"] for v in run.facts["validation"]}
        ):
            validated(run.checkpoint())  # stopped after its checkpoint and before its validation
        started = time.perf_counter()
        # Losses are read one step late, so that a GPU already has the next step when it is waited for.
        previous: PendingLoss | None = None
        for pending in train(run, data):
            if previous:
                report(previous)
            previous = pending
            if pending.step % validate_every and pending.step != run.config.steps:
                continue
            report(pending)
            previous = None
            run.facts["seconds"] += time.perf_counter() - started
            if writer:
                checkpoint = run.checkpoint()
                run.facts["index_counts"] = count_indices(checkpoint, data, run.device)
                # Before validation, which takes long: a run that is stopped there loses no step.
                checkpoint.save(output / "checkpoint")
                if val_frames:
                    validated(checkpoint)
            started = time.perf_counter()


def _faults(names: str) -> tuple[FaultKind, ...]:
    known: tuple[FaultKind, ...] = get_args(FaultKind)
    chosen = tuple(kind for name in names.split(",") for kind in known if kind == name)
    if len(chosen) != len(names.split(",")):
        raise typer.BadParameter(f"--faults {names}: give some of {','.join(known)}")
    return chosen


def main(
    output: Annotated[Path, typer.Option(help="The run's directory; an unfinished run there is continued.")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Directory with left/ and right/; may repeat.")
    ] = None,
    val_pairs: Annotated[list[Path] | None, typer.Option(help="Pairs to validate on.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint whose averaged weights a new run starts from.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1)] = TrainConfig.steps,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Samples a step, of all processes together.")
    ] = TrainConfig.batch_size,
    learning_rate: float = TrainConfig.learning_rate,
    muon_learning_rate: float = TrainConfig.muon_learning_rate,
    gain_learning_rate: Annotated[
        float, typer.Option(help="Of the gains of the rate levels; scalar.")
    ] = TrainConfig.gain_learning_rate,
    rate_learning_rate: Annotated[
        float, typer.Option(help="Of the rate model; scalar.")
    ] = TrainConfig.rate_learning_rate,
    optimizer: Annotated[
        OptimizerKind, typer.Option(help="AdamW for all, or Muon for the matrices.")
    ] = TrainConfig.optimizer,
    ms_ssim_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the distortion that is MS-SSIM and not MSE; scalar.")
    ] = TrainConfig.ms_ssim_share,
    side_dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples without y; 1 trains the blind twin.")
    ] = TrainConfig.side_dropout,
    faulty_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples whose y is a wrong one.")
    ] = TrainConfig.faulty_share,
    faults: Annotated[str, typer.Option(help="Which, of pair, window, black, rows, late.")] = ",".join(
        TrainConfig.faults
    ),
    flips: Annotated[
        FlipKind,
        typer.Option(help="Mirror a pair and swap its views, or each view by itself, as the paper."),
    ] = TrainConfig.flips,
    synthetic_share: Annotated[float, typer.Option(min=0, max=1)] = TrainConfig.synthetic_share,
    unquantized_steps: Annotated[
        int, typer.Option(min=0, help="Steps before the codebooks start.")
    ] = TrainConfig.unquantized_steps,
    drives: Annotated[int, typer.Option(min=1, help="Synthetic drives to render.")] = 400,
    channels: Annotated[int, typer.Option(min=8)] = ModelConfig.channels,
    encoder_channels: Annotated[
        int | None, typer.Option(min=8, help="Width of the encoder; that of the decoder without.")
    ] = ModelConfig.encoder_channels,
    encoder_activation: Annotated[
        ActivationKind | None,
        typer.Option(
            help="gelu, or relu, which is free in 8-bit integers; that of --start, else gelu, without."
        ),
    ] = None,
    quantizer: Annotated[
        QuantizerKind, typer.Option(help="Codebooks, or a scalar quantizer with the rate in the loss.")
    ] = ModelConfig.quantizer,
    codebooks: Annotated[str, typer.Option(help="Codebook size of each residual stage.")] = "256,256,256",
    levels: Annotated[
        int, typer.Option(min=1, max=32, help="Rate levels of the scalar quantizer.")
    ] = ScalarConfig.levels,
    lowest_lambda: Annotated[
        float, typer.Option(help="Weight of the MSE on 0..255 against bits a pixel, lowest level; scalar.")
    ] = TrainConfig.lowest_lambda,
    highest_lambda: Annotated[
        float, typer.Option(help="The same at the highest level.")
    ] = TrainConfig.highest_lambda,
    alignment: bool = ModelConfig.alignment,
    gate: Annotated[bool, typer.Option(help="Learned weights of what comes from y.")] = ModelConfig.gate,
    seed: int = TrainConfig.seed,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves the choice to torch.")] = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to train.")] = "cpu",
    precision: Annotated[
        Precision | None, typer.Option(help="Of the networks: bf16 on cuda and fp32 on cpu by default.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="torch.compile the networks: a minute or two once; no gain on a CPU."),
    ] = False,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    cache: Annotated[Path, typer.Option(help="Where rendered drives are kept.")] = Path("runs/cache"),
) -> None:
    """Train a codec on rectified stereo pairs, the synthetic drive, or both."""
    if threads:
        torch.set_num_threads(threads)
    try:
        sizes = tuple(int(size) for size in codebooks.split(","))
    except ValueError:
        raise typer.BadParameter(f"--codebooks {codebooks}: give sizes such as 256,256,256") from None
    if compiled and not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise TrainingError("--compile needs a C++ compiler, and this machine has none: leave it out")
    if not 0 < lowest_lambda <= highest_lambda:
        raise typer.BadParameter(f"--lowest-lambda {lowest_lambda} must lie in (0, {highest_lambda}]")
    if quantizer == "scalar" and levels == 1 and lowest_lambda != highest_lambda:
        raise typer.BadParameter(
            "--levels 1 has one lambda: give --lowest-lambda and --highest-lambda the same"
        )
    if ms_ssim_share and quantizer != "scalar":
        raise typer.BadParameter("--ms-ssim-share is of --quantizer scalar")
    earlier = Checkpoint.load(start) if start else None
    known = earlier.model_config.encoder_activation if earlier else ModelConfig.encoder_activation
    model_config = ModelConfig(
        quantizer=quantizer,
        channels=channels,
        encoder_channels=encoder_channels,
        encoder_activation=encoder_activation or known,
        codebook_sizes=sizes,
        alignment=alignment,
        gate=gate,
        scalar=ScalarConfig(levels=levels),
    )
    config = replace(
        TrainConfig(),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        muon_learning_rate=muon_learning_rate,
        gain_learning_rate=gain_learning_rate,
        rate_learning_rate=rate_learning_rate,
        optimizer=optimizer,
        lowest_lambda=lowest_lambda,
        highest_lambda=highest_lambda,
        ms_ssim_share=ms_ssim_share,
        side_dropout=side_dropout,
        faulty_share=faulty_share,
        faults=_faults(faults),
        flips=flips,
        seed=seed,
        unquantized_steps=min(unquantized_steps, steps // 2) if quantizer == "residual_vq" else 0,
        synthetic_share=synthetic_share if pairs else 1.0,
        precision=precision or ("bf16" if device == "cuda" else "fp32"),
    )
    ranks = Ranks.join(device)
    ranks.agree(model_config.to_dict() | config.to_dict() | {"validate_every": validate_every})
    ranks.share(batch_size)
    place = pick_device(device, ranks)
    console = Console(stderr=True, quiet=ranks.rank > 0)
    with console.status("reading pairs") as status:
        loaded = load_pairs(pairs or [], status.update)
        val_frames = validation_views(load_pairs(val_pairs or []))
        rendered = []
        if config.synthetic_share > 0:
            with ranks.local_first():
                rendered = render_drives(drives, seed=DRIVES_SEED, cache=cache, progress=status.update)
    run = Run(model_config, config, place, ranks, "inductor" if compiled else None)
    run.facts |= {
        "pairs": len(loaded),
        "drives": len(rendered),
        "data": fingerprint([*loaded, *rendered]),
        "torch": torch.__version__,
        "device": device,
        "processes": ranks.count,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    latest = output / "checkpoint"
    if latest.exists() or latest.with_name("checkpoint.old").exists():
        begun = Checkpoint.load(latest)
        if earlier and begun.facts.get("start") != digest(earlier.as_trained().averaged)[:16]:
            raise CheckpointError(
                f"{output} holds a run that did not start from {start}: give another --output"
            )
        run.restore(begun)
        console.print(f"continuing {output} at step {run.step}")
    elif earlier:
        run.start_from(earlier)
        run.facts["steps_before"] = earlier.step + earlier.facts.get("steps_before", 0)
        run.facts["start"] = digest(earlier.as_trained().averaged)[:16]
        if "made_anew" in earlier.facts:
            run.facts["made_anew"] = earlier.facts["made_anew"]
    ranks.agree({name: run.facts.get(name) for name in ("data", "start")} | {"step": run.step})
    data = TrainingData(loaded, rendered, place)
    run_to_the_end(run, data, val_frames, output, validate_every, console)
    console.print(f"done: {latest}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except RanksError as error:  # every rank has it: one says it
        sys.exit(f"error: {error}" if os.environ.get("RANK", "0") == "0" else 1)
    except NdscError as error:
        sys.exit(f"error: {error}")
