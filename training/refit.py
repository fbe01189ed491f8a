"""The rate model fitted to indices as they are sent: `python -m training.refit CHECKPOINT --pairs DIR -o OUTPUT`.

Training takes the rate at latents with noise in place of rounding, whose gradients the encoder needs (Ballé et al.
2017). A rate model that has learned from them is too wide: a latent near zero is some way off with noise, and
always 0 when rounded. So its last steps are taken alone, at rounded indices, with the codec's other weights as
they are: the same indices and pictures in fewer bytes, at low rates above all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from ndsc.codec.errors import NdscError
from training.checkpoint import Checkpoint, CheckpointError, digest
from training.data import TrainingData, load_pairs, render_drives
from training.ranks import Ranks
from training.run import TrainingError, pick_device
from training.scalar_codec import ScalarCodec
from training.train import DRIVES_SEED
from training.validation import validate, validation_views

LEARNING_RATE = 2e-3
"""AdamW's, at its highest."""
SEED = 1_000_000
"""Added to the training's: other crops."""


def refit(
    checkpoint: Checkpoint,
    data: TrainingData,
    steps: int,
    *,
    learning_rate: float = LEARNING_RATE,
    device: torch.device,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Checkpoint:
    """The averaged weights of `checkpoint` with another rate model, and no optimizer.

    Every level counts alike: the loss is the mean logarithm of a sample's bits. Batches are drawn as in training;
    `advance` is called with the steps done and all. Raises CheckpointError for a codec without a rate model,
    TrainingError when the loss is not finite.
    """
    codec = checkpoint.averaged_model().to(device)
    if not isinstance(codec, ScalarCodec):
        raise CheckpointError("a codec of codebooks has no rate model of its own: training.prior learns one")
    config = checkpoint.train_config
    share = config.synthetic_share if data.pair_count else 1.0
    drawn = replace(config, seed=config.seed + SEED, synthetic_share=share if data.drive_count else 0.0)
    learned = list(codec.rate_model.parameters())
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(2, steps), pct_start=0.05
    )
    for step in range(steps):
        batch = data.batch(drawn, checkpoint.model_config.levels, step)
        with torch.no_grad():
            quantized = codec.quantizer(codec.encoder(batch.source), batch.level)
        bits = codec.rate_model(quantized, batch.level).sum((1, 2, 3))
        loss = bits.log().mean()
        if not bool(loss.isfinite()):
            raise TrainingError(f"the loss is {float(loss.detach())} at step {step}: lower --learning-rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        advance(step + 1, steps)
    weights = {name: value.detach().cpu().clone() for name, value in codec.state_dict().items()}
    facts = {**checkpoint.facts, "refit_steps": steps, "refit_from": digest(checkpoint.averaged)[:16]}
    return replace(checkpoint, model=weights, averaged=weights, optimizer={}, facts=facts)


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Of a codec trained with --quantizer scalar.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write, for training.export.")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Pairs that it was trained on, left/ and right/; may repeat.")
    ] = None,
    val_pairs: Annotated[
        list[Path] | None, typer.Option(help="Pairs to measure on, before and after.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the training's batch size.")] = 2000,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at its highest.")] = LEARNING_RATE,
    drives: Annotated[int, typer.Option(min=1, help="Synthetic drives, as in training.")] = 400,
    cache: Annotated[Path, typer.Option(help="Where rendered drives are kept.")] = Path("runs/cache"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")] = 0,
) -> None:
    """Fit the rate model alone to rounded indices: the same pictures in fewer bytes."""
    if threads:
        torch.set_num_threads(threads)
    if output.exists():
        raise CheckpointError(f"{output} exists: give another -o")
    trained = Checkpoint.load(checkpoint)
    place = pick_device(device, Ranks())
    console = Console(stderr=True)
    held_out = validation_views(load_pairs(val_pairs or []))
    with console.status("reading pairs") as status:
        loaded = load_pairs(pairs or [], status.update)
        synthetic = trained.train_config.synthetic_share > 0 or not loaded
        rendered = (
            render_drives(drives, seed=DRIVES_SEED, cache=cache, progress=status.update) if synthetic else []
        )
    data = TrainingData(loaded, rendered, place)
    with Progress(console=console) as progress:
        task = progress.add_task("rate model", total=steps)
        refitted = refit(
            trained,
            data,
            steps,
            learning_rate=learning_rate,
            device=place,
            advance=lambda done, _: progress.update(task, completed=done),
        )
    if held_out:
        before, after = (validate(one, held_out, place) for one in (trained, refitted))
        refitted.facts["validation"] = [*trained.facts["validation"], {"step": trained.step, **after}]
        for level, (old, new) in enumerate(zip(before["bpp"], after["bpp"], strict=True)):
            print(f"level {level}: {old} → {new} bpp, {100 * (new / old - 1):+.1f} %")
    refitted.save(output)
    print(f"{output}: bundle it with training.export")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (NdscError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
