"""Train a conditional VQ-VAE: `python -m training.train --pairs DIR --output RUN`.

The loop is plain torch. A run is a directory with one checkpoint (replaced as it goes) and `log.jsonl`; started
again with the same `--output` it continues where it stopped, with the same losses as an unbroken run.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ndsc.codec.errors import NdscError
from ndsc.evaluate.protocols import CROP_HEIGHT, CROP_WIDTH, kitti128
from training.checkpoint import Checkpoint, CheckpointError, optimizer_tensors, restore_optimizer
from training.config import ModelConfig, TrainConfig
from training.data import Frame, Pair, batches, fingerprint, load_pairs, make_batch, render_drives
from training.model import ConditionalVQVAE


class TrainingError(NdscError):
    """A run that cannot start or go on."""


DRIVES_SEED = 1000
"""Training drives start here; the demo's drive (seed 0) is never among them."""


@dataclass(frozen=True)
class StepLoss:
    """Losses of one step, before its update."""

    step: int
    loss: float
    mse: float
    commitment: float

    @property
    def psnr(self) -> float:
        """Of the batch, in dB."""
        return -10 * math.log10(max(self.mse, 1e-12))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < config.learning_rate_warmup_steps:
        return config.learning_rate * (step + 1) / config.learning_rate_warmup_steps
    done = (step - config.learning_rate_warmup_steps) / max(
        1, config.steps - config.learning_rate_warmup_steps
    )
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Run:
    """A training run in memory: model, averaged weights, optimizer, steps done."""

    def __init__(self, model_config: ModelConfig, config: TrainConfig, device: torch.device) -> None:
        self.model_config, self.config, self.device = model_config, config, device
        torch.manual_seed(config.seed)
        self.model = ConditionalVQVAE(model_config).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )
        self.averaged = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.step = 0
        self.facts: dict[str, Any] = {"seconds": 0.0, "validation": []}

    @property
    def levels(self) -> int:
        """Rate levels: one for each residual stage."""
        return len(self.model_config.codebook_sizes)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`. Raises CheckpointError when it is another run's."""
        if (checkpoint.model_config, checkpoint.train_config) != (self.model_config, self.config):
            raise CheckpointError(
                "the checkpoint in the output directory has other settings: give them again, "
                "or another --output"
            )
        if checkpoint.facts.get("data") != self.facts.get("data"):
            raise CheckpointError(
                "the checkpoint in the output directory was trained on other data: give the same --pairs and "
                "--drives, or another --output"
            )
        self.model.load_state_dict(checkpoint.model)
        restore_optimizer(self.model, self.optimizer, checkpoint.optimizer)
        self.averaged = {name: value.to(self.device) for name, value in checkpoint.averaged.items()}
        self.step, self.facts = checkpoint.step, checkpoint.facts

    def checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        return Checkpoint(
            self.model_config,
            self.config,
            self.step,
            self.model.state_dict(),
            self.averaged,
            optimizer_tensors(self.model, self.optimizer),
            self.facts,
        )

    def generator(self) -> torch.Generator:
        """This step's random numbers (dead-code replacements), independent of the steps before."""
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)

    def start_codebooks(self, pairs: list[Pair], drives: list[Pair]) -> None:
        """K-means start on the latents of a few fresh batches."""
        first = self.config.steps + 1  # steps past the end: samples no training step sees
        with torch.no_grad():
            latents = [
                self.model.encoder(
                    make_batch(pairs, drives, self.config, self.levels, first + i).tensors(self.device)[0]
                ).cpu()
                for i in range(8)
            ]
        self.model.quantizer.cpu().start_from_kmeans(torch.cat(latents), self.generator())
        self.model.quantizer.to(self.device)

    def train_step(self, tensors: tuple[Tensor, Tensor, Tensor, Tensor]) -> StepLoss:
        """One update. Before `unquantized_steps` the latents pass unquantized."""
        config = self.config
        source, side, present, level = (
            t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        result = self.model(
            source,
            side,
            present,
            level,
            quantize=self.step >= config.unquantized_steps,
            generator=self.generator(),
        )
        mse = (result.frame - source).square().mean()
        commitment = result.quantized.commitment
        loss = config.distortion_weight * mse + config.commitment * commitment
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        self._average()
        return StepLoss(self.step, loss.item(), mse.item(), commitment.item())

    @torch.no_grad()
    def _average(self) -> None:
        # The first steps of an average weigh little history, or it would drag the initial weights along.
        decay = min(self.config.weights_ema, self.step / (self.step + 10))
        for name, value in self.model.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)


def validation_view(frame: Frame) -> Frame:
    """What is validated on: `kitti128` of a frame it fits, else the frame, cut to whole strides."""
    height, width = frame.shape[:2]
    if height >= CROP_HEIGHT and width >= CROP_WIDTH:
        return kitti128(frame)
    return frame[: max(8, height // 8 * 8), : max(8, width // 8 * 8)]


@torch.no_grad()
def validate(
    checkpoint: Checkpoint, frames: list[tuple[Frame, Frame]], device: torch.device, without: bool = True
) -> dict[str, list[float]]:
    """Mean PSNR (float output, dB) with y and without, and index entropy (bpp), by rate level.

    The entropy is of the indices' own histogram: a guide for choosing, not a rate anyone pays.
    """
    model = checkpoint.averaged_model().to(device)
    sizes = checkpoint.model_config.codebook_sizes
    psnr: dict[str, list[list[float]]] = {"right": [], "none": []}
    counts = [np.zeros(size, np.int64) for size in sizes]
    pixels = 0
    for left, right in frames:
        source, side = (
            torch.from_numpy(f.copy()).to(device).permute(2, 0, 1)[None].float() / 255 for f in (left, right)
        )
        pixels += left.shape[0] * left.shape[1]
        indices = model.quantizer(model.encoder(source)).indices
        for s, size in enumerate(sizes):
            counts[s] += np.bincount(indices[0, s].flatten().cpu().numpy(), minlength=size)
        features = model.side_network(side)
        for name, present in (("right", 1.0), ("none", 0.0)):
            if name == "none" and not without:
                continue
            row = []
            for level in range(len(sizes)):
                at = torch.tensor([level], device=device)
                decoded = model.decoder(
                    model.quantizer.lookup(indices, at + 1),
                    at,
                    features,
                    torch.tensor([present], device=device),
                )
                mse = (decoded.clamp(0, 1) - source).square().mean().item()
                row.append(-10 * math.log10(mse))
            psnr[name].append(row)
    bits = [float(-(c[c > 0] * np.log2(c[c > 0] / c.sum())).sum()) for c in counts]
    return {
        **{name: np.mean(rows, axis=0).round(3).tolist() for name, rows in psnr.items() if rows},
        "entropy_bpp": (np.cumsum(bits) / pixels).round(4).tolist(),
    }


@torch.no_grad()
def count_indices(
    checkpoint: Checkpoint, pairs: list[Pair], drives: list[Pair], device: torch.device, batch_count: int = 16
) -> list[list[int]]:
    """How often each index of each stage is chosen on fresh training batches: the static prior's source."""
    model = checkpoint.averaged_model().to(device)
    config, sizes = checkpoint.train_config, checkpoint.model_config.codebook_sizes
    counts = [np.zeros(size, np.int64) for size in sizes]
    first = config.steps + 100  # steps past the end: samples no training step sees
    for step in range(first, first + batch_count):
        source = make_batch(pairs, drives, config, len(sizes), step).tensors(device)[0]
        indices = model.quantizer(model.encoder(source)).indices.cpu()
        for s, size in enumerate(sizes):
            counts[s] += np.bincount(indices[:, s].flatten().numpy(), minlength=size)
    return [c.tolist() for c in counts]


def train(run: Run, pairs: list[Pair], drives: list[Pair]) -> Iterator[StepLoss]:
    """Steps from where the run stands to its end; yields each step's losses."""
    for batch in batches(pairs, drives, run.config, run.levels, run.step):
        if run.step == run.config.unquantized_steps:
            run.start_codebooks(pairs, drives)
        started = time.perf_counter()
        losses = run.train_step(batch.tensors(run.device))
        run.facts["seconds"] += time.perf_counter() - started
        if not math.isfinite(losses.loss):
            raise TrainingError(f"the loss is {losses.loss} at step {losses.step}: lower --learning-rate")
        yield losses


def main(
    output: Annotated[Path, typer.Option(help="The run's directory; an unfinished run there is continued.")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Directory with left/ and right/; may repeat.")
    ] = None,
    val_pairs: Annotated[list[Path] | None, typer.Option(help="Pairs to validate on.")] = None,
    steps: Annotated[int, typer.Option(min=1)] = TrainConfig.steps,
    batch_size: Annotated[int, typer.Option(min=1)] = TrainConfig.batch_size,
    learning_rate: float = TrainConfig.learning_rate,
    side_dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples without y; 1 trains the blind twin.")
    ] = TrainConfig.side_dropout,
    synthetic_share: Annotated[float, typer.Option(min=0, max=1)] = TrainConfig.synthetic_share,
    unquantized_steps: Annotated[
        int, typer.Option(min=0, help="Steps before the codebooks start.")
    ] = TrainConfig.unquantized_steps,
    drives: Annotated[int, typer.Option(min=1, help="Synthetic drives to render.")] = 400,
    channels: Annotated[int, typer.Option(min=8)] = ModelConfig.channels,
    codebooks: Annotated[str, typer.Option(help="Codebook size of each residual stage.")] = "256,256,256",
    alignment: bool = ModelConfig.alignment,
    seed: int = TrainConfig.seed,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves the choice to torch.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    cache: Annotated[Path, typer.Option(help="Where rendered drives are kept.")] = Path("runs/cache"),
) -> None:
    """Train a codec on rectified stereo pairs, the synthetic drive, or both."""
    if threads:
        torch.set_num_threads(threads)
    console = Console(stderr=True)
    try:
        sizes = tuple(int(size) for size in codebooks.split(","))
    except ValueError:
        raise typer.BadParameter(f"--codebooks {codebooks}: give sizes such as 256,256,256") from None
    model_config = replace(ModelConfig(), channels=channels, codebook_sizes=sizes, alignment=alignment)
    config = replace(
        TrainConfig(),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        side_dropout=side_dropout,
        seed=seed,
        unquantized_steps=min(unquantized_steps, steps // 2),
        synthetic_share=synthetic_share if pairs else 1.0,
    )
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("this torch finds no CUDA device: give --device cpu, or install a CUDA build")
    with console.status("reading pairs") as status:
        loaded = load_pairs(pairs or [], status.update)
        val_frames = [
            (validation_view(p.left), validation_view(p.right)) for p in load_pairs(val_pairs or [])
        ]
        rendered = (
            render_drives(drives, seed=DRIVES_SEED, cache=cache, progress=status.update)
            if config.synthetic_share > 0
            else []
        )
    run = Run(model_config, config, torch.device(device))
    run.facts |= {
        "pairs": len(loaded),
        "drives": len(rendered),
        "data": fingerprint([*loaded, *rendered]),
        "torch": torch.__version__,
        "device": device,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    latest = output / "checkpoint"
    if latest.exists() or latest.with_name("checkpoint.old").exists():
        run.restore(Checkpoint.load(latest))
        console.print(f"continuing {output} at step {run.step}")
    output.mkdir(parents=True, exist_ok=True)
    log_path = output / "log.jsonl"
    if log_path.exists():  # steps after the checkpoint are done again
        kept = [
            line
            for line in log_path.read_text().splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= run.step
        ]
        log_path.write_text("".join(kept))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress, log_path.open("a", buffering=1) as log:
        task = progress.add_task("training", total=steps, completed=run.step)
        for losses in train(run, loaded, rendered):
            progress.update(task, completed=losses.step, description=f"{losses.psnr:.2f} dB")
            log.write(
                json.dumps(
                    {
                        "step": losses.step,
                        "loss": round(losses.loss, 5),
                        "mse": losses.mse,
                        "commitment": round(losses.commitment, 5),
                    }
                )
                + "\n"
            )
            if losses.step % validate_every == 0 or losses.step == steps:
                checkpoint = run.checkpoint()
                run.facts["index_counts"] = count_indices(checkpoint, loaded, rendered, run.device)
                if val_frames:
                    scores = validate(checkpoint, val_frames, run.device)
                    run.facts["validation"].append({"step": losses.step, **scores})
                    progress.console.print(f"step {losses.step}: {scores}")
                log.flush()
                checkpoint.save(latest)
    console.print(f"done: {latest}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except NdscError as error:
        sys.exit(f"error: {error}")
