"""Train a conditional VQ-VAE: `python -m training.train --pairs DIR --output RUN`.

The loop is plain torch. A run is a directory with one checkpoint (replaced as it goes) and `log.jsonl`; started
again with the same `--output` it continues where it stopped, with the same losses as an unbroken run.

Under `torchrun --nproc-per-node N -m training.train …` N processes share each batch and take the steps that one
would take. Rank 0 alone validates and writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ndsc.codec.errors import NdscError
from training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_weights,
    optimizer_tensors,
    restore_optimizers,
)
from training.config import ModelConfig, OptimizerKind, Precision, QuantizerKind, ScalarConfig, TrainConfig
from training.data import Batch, Frame, TrainingData, fingerprint, load_pairs, render_drives
from training.layers import Pointwise
from training.model import ConditionalVQVAE
from training.ranks import Ranks, RanksError
from training.scalar_codec import Codec, build
from training.validation import count_indices, validate, validation_view


class TrainingError(NdscError):
    """A run that cannot start or go on."""


DRIVES_SEED = 1000
"""Training drives start here; the demo's drive (seed 0) is never among them."""


@dataclass(frozen=True)
class StepLoss:
    """Losses of one step over the whole batch, before its update."""

    step: int
    loss: float
    mse: float
    other: float
    """The loss's other part, the codec's `quantity`: commitment or bits a pixel."""

    @property
    def psnr(self) -> float:
        """Of the batch, in dB."""
        return -10 * math.log10(max(self.mse, 1e-12))


@dataclass(frozen=True)
class PendingLoss:
    """A step's losses that the device may still be computing: reading them waits for it."""

    step: int
    values: Tensor
    """float32 [3]: loss, mse, the other part."""

    def read(self) -> StepLoss:
        """The losses. Raises TrainingError when they are not finite."""
        loss, mse, other = self.values.tolist()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {self.step}: lower --learning-rate")
        return StepLoss(self.step, loss, mse, other)


def make_optimizers(model: Codec, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon (Jordan et al. 2024) for the matrices of encoder, side network and decoder.

    Embeddings and biases are no matrices in Muon's sense, nor is anything of quantizer and rate model.
    """
    matrices = []
    if config.optimizer == "muon":
        matrices = [m.weight for m in model.modules() if isinstance(m, Pointwise)]
    numbers = {id(matrix) for matrix in matrices}
    others = [p for p in model.parameters() if id(p) not in numbers]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            others, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
        )
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=config.muon_learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def schedule(config: TrainConfig, step: int) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to zero."""
    if step < config.learning_rate_warmup_steps:
        return (step + 1) / config.learning_rate_warmup_steps
    done = (step - config.learning_rate_warmup_steps) / max(
        1, config.steps - config.learning_rate_warmup_steps
    )
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Run:
    """A training run in memory: model, averaged weights, optimizer, steps done."""

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        device: torch.device,
        ranks: Ranks | None = None,
        compiler: str | None = None,
    ) -> None:
        """`ranks` share each batch. `compiler` is a backend of torch.compile; None runs eagerly."""
        self.model_config, self.config, self.device = model_config, config, device
        self.ranks = ranks or Ranks()
        torch.manual_seed(config.seed)
        self.model: Codec = build(model_config).to(device)
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.quantizer.share(self.ranks)
        if compiler:  # not the quantizer: sums over ranks would break the graph
            for part in (self.model.encoder, self.model.side_network, self.model.decoder):
                part.compile(backend=compiler)
        self.network: nn.Module = self.model
        if self.ranks.count > 1:
            self.network = DistributedDataParallel(self.model)
        self.optimizers = make_optimizers(self.model, config)
        self.averaged = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.step = 0
        self.facts: dict[str, Any] = {"seconds": 0.0, "validation": []}

    @property
    def levels(self) -> int:
        """Rate levels."""
        return self.model_config.levels

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`. Raises CheckpointError when it is another run's."""
        if (checkpoint.model_config, checkpoint.train_config) != (self.model_config, self.config):
            raise CheckpointError(
                "the checkpoint in the output directory has other settings: give them again, "
                "or another --output"
            )
        if not checkpoint.optimizer:
            raise CheckpointError(
                "the checkpoint in the output directory has no optimizer: start from it with --start"
            )
        if checkpoint.facts.get("data") != self.facts.get("data"):
            raise CheckpointError(
                "the checkpoint in the output directory was trained on other data: give the same --pairs and "
                "--drives, or another --output"
            )
        load_weights(self.model, checkpoint.model)
        restore_optimizers(self.model, self.optimizers, checkpoint.optimizer)
        self.averaged = {name: value.to(self.device) for name, value in checkpoint.averaged.items()}
        self.step, self.facts = checkpoint.step, checkpoint.facts

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Take another run's averaged weights. Raises CheckpointError when that codec has other settings."""
        if checkpoint.model_config != self.model_config:
            raise CheckpointError("the codec to start from has other settings: give them again")
        load_weights(self.model, checkpoint.averaged)
        self.averaged = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        return Checkpoint(
            self.model_config,
            self.config,
            self.step,
            self.model.state_dict(),
            self.averaged,
            optimizer_tensors(self.model, self.optimizers),
            self.facts,
        )

    def generator(self) -> torch.Generator:
        """This step's random numbers (dead-code replacements), independent of the steps before."""
        return torch.Generator(self.device).manual_seed(self.config.seed * 1_000_003 + self.step)

    def autocast(self) -> torch.autocast:
        """The context that the networks compute in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    @torch.no_grad()
    def start_codebooks(self, data: TrainingData) -> None:
        """K-means start on the latents of a few fresh batches. Without codebooks there is nothing to do."""
        if not isinstance(self.model, ConditionalVQVAE):
            return
        first = self.config.steps + 1  # steps past the end: samples no training step sees
        latents = []
        for step in range(first, first + 8):
            batch = data.batch(self.config, self.levels, step, self.ranks)
            with self.autocast():
                latents.append(self.ranks.gather(self.model.encoder(batch.source).float().contiguous()))
        self.model.quantizer.start_from_kmeans(torch.cat(latents), self.generator())

    def train_step(self, batch: Batch) -> PendingLoss:
        """One update, without waiting for a GPU. Before `unquantized_steps` the latents pass unquantized."""
        config = self.config
        source, side = (x.contiguous(memory_format=torch.channels_last) for x in (batch.source, batch.side))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * schedule(config, self.step)
        with self.autocast():
            result = self.network(
                source,
                side,
                batch.present,
                batch.level,
                quantize=self.step >= config.unquantized_steps,
                generator=self.generator(),
            )
        losses = self.model.losses(result, source, batch.level, config)
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(losses[0])
        nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self._average()
        return PendingLoss(self.step, self.ranks.mean(losses.detach()))

    @torch.no_grad()
    def _average(self) -> None:
        # The first steps of an average weigh little history, or it would drag the initial weights along.
        decay = min(self.config.weights_ema, self.step / (self.step + 10))
        for name, value in self.model.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)


def train(run: Run, data: TrainingData) -> Iterator[PendingLoss]:
    """Steps from where the run stands to its end; yields each step's losses."""
    while run.step < run.config.steps:
        if run.step == run.config.unquantized_steps:
            run.start_codebooks(data)
        yield run.train_step(data.batch(run.config, run.levels, run.step, run.ranks))


def pick_device(name: str, ranks: Ranks) -> torch.device:
    """`cpu`, or the CUDA device of this rank. Raises TrainingError when there is none."""
    if name != "cuda":
        return torch.device(name)
    if ranks.local >= torch.cuda.device_count():
        raise TrainingError(
            f"this torch finds {torch.cuda.device_count()} CUDA devices, too few for process {ranks.local + 1} "
            "of this machine: give --device cpu, fewer processes, or install a CUDA build"
        )
    torch.cuda.set_device(ranks.local)
    return torch.device("cuda", ranks.local)


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
                if val_frames:
                    scores = validate(checkpoint, val_frames, run.device)
                    run.facts["validation"].append({"step": pending.step, **scores})
                    progress.console.print(f"step {pending.step}: {scores}")
                checkpoint.save(output / "checkpoint")
            started = time.perf_counter()


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
    optimizer: Annotated[
        OptimizerKind, typer.Option(help="AdamW for all, or Muon for the matrices.")
    ] = TrainConfig.optimizer,
    side_dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples without y; 1 trains the blind twin.")
    ] = TrainConfig.side_dropout,
    faulty_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples whose y is a wrong one.")
    ] = TrainConfig.faulty_share,
    synthetic_share: Annotated[float, typer.Option(min=0, max=1)] = TrainConfig.synthetic_share,
    unquantized_steps: Annotated[
        int, typer.Option(min=0, help="Steps before the codebooks start.")
    ] = TrainConfig.unquantized_steps,
    drives: Annotated[int, typer.Option(min=1, help="Synthetic drives to render.")] = 400,
    channels: Annotated[int, typer.Option(min=8)] = ModelConfig.channels,
    encoder_channels: Annotated[
        int | None, typer.Option(min=8, help="Width of the encoder; that of the decoder without.")
    ] = ModelConfig.encoder_channels,
    quantizer: Annotated[
        QuantizerKind, typer.Option(help="Codebooks, or a scalar quantizer with the rate in the loss.")
    ] = ModelConfig.quantizer,
    codebooks: Annotated[str, typer.Option(help="Codebook size of each residual stage.")] = "256,256,256",
    levels: Annotated[
        int, typer.Option(min=1, help="Rate levels of the scalar quantizer.")
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
    model_config = ModelConfig(
        quantizer=quantizer,
        channels=channels,
        encoder_channels=encoder_channels,
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
        optimizer=optimizer,
        lowest_lambda=lowest_lambda,
        highest_lambda=highest_lambda,
        side_dropout=side_dropout,
        faulty_share=faulty_share,
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
        val_frames = [
            (validation_view(p.left), validation_view(p.right)) for p in load_pairs(val_pairs or [])
        ]
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
        run.restore(Checkpoint.load(latest))
        console.print(f"continuing {output} at step {run.step}")
    elif start:
        earlier = Checkpoint.load(start)
        run.start_from(earlier)
        run.facts["steps_before"] = earlier.step + earlier.facts.get("steps_before", 0)
        weights = (start / "averaged.safetensors").read_bytes()
        run.facts["start"] = hashlib.sha256(weights).hexdigest()[:16]
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
