"""The last steps of a scalar codec, at indices as they are sent: `python -m training.finish CHECKPOINT -o OUTPUT`.

Training takes the rate at latents with noise in place of rounding, whose gradients the encoder needs (Ballé et al.
2017), and lets gradients through rounding as if it were not there. Two things are wrong afterwards:

- The rate model is too wide: a latent near zero is some way off with noise, and always 0 when rounded. It is
  fitted alone, at rounded indices, with the other weights as they are: the same pictures in fewer bytes.
- At low levels some planes are zero nearly everywhere, and their few other indices cost more than they are worth.
  They are left out there, and the rate model is fitted once more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ndsc.codec.errors import NdscError
from training.checkpoint import Checkpoint, CheckpointError, digest
from training.config import TrainConfig
from training.data import Batch, TrainingData, fingerprint, load_pairs, render_drives
from training.fitting import fit
from training.model import SideFeatures
from training.ranks import Ranks
from training.run import pick_device
from training.scalar_codec import ScalarCodec, distortion_of, distortion_weights
from training.train import DRIVES_SEED
from training.validation import validate, validation_views

STEPS = 2000
LEARNING_RATE = 2e-3
"""AdamW's, at its highest."""
FIT_SEED, LEAVE_OUT_SEED = 1_000_000, 2_000_000
"""Added to the training's: other crops."""
LEAVE_OUT_CROPS = 32
"""Crops that decide whether a plane is worth its bits."""
NO_GAIN = -12.0
"""log gain of a plane that is left out: its latents are far below half a step, so its indices are 0."""


def _codec(checkpoint: Checkpoint, device: torch.device) -> ScalarCodec:
    codec = checkpoint.averaged_model().to(device)
    if not isinstance(codec, ScalarCodec):
        raise CheckpointError("a codec of codebooks has no rate model of its own: training.prior learns one")
    return codec


def _as_trained(checkpoint: Checkpoint, data: TrainingData, seed: int) -> TrainConfig:
    """What batches are drawn with: as in training, from what `data` has."""
    config = checkpoint.train_config
    share = config.synthetic_share if data.pair_count else 1.0
    return replace(config, seed=config.seed + seed, synthetic_share=share if data.drive_count else 0.0)


def fit_rate_model(
    codec: ScalarCodec,
    config: TrainConfig,
    data: TrainingData,
    steps: int,
    learning_rate: float,
    advance: Callable[[], None],
) -> None:
    """Fit the rate model of `codec` to rounded indices, in place.

    Every level counts alike: the loss is the mean logarithm of a sample's bits. Raises TrainingError when it is
    not finite.
    """
    learned = list(codec.rate_model.parameters())
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def loss_at(step: int) -> Tensor:
        batch = data.batch(config, codec.config.levels, step)
        with torch.no_grad():
            quantized = codec.quantizer(codec.encoder(batch.source), batch.level)
        bits: Tensor = codec.rate_model(quantized, batch.level).sum((1, 2, 3))
        return bits.log().mean()

    fit("the rate model", learned, optimizer, steps, loss_at, lambda *_: advance())


@dataclass(frozen=True)
class _Crops:
    """A batch, and what of it does not depend on the planes."""

    batch: Batch
    latents: Tensor
    side: SideFeatures


@torch.no_grad()
def leave_out(codec: ScalarCodec, config: TrainConfig, data: TrainingData) -> list[list[int]]:
    """Take planes from levels that are better without them, in place; returns those of each level.

    From the least used to the most, a plane goes where R + λD of the crops falls without it and those before it.
    """
    drawn = replace(config, batch_size=8)
    crops = []
    for step in range(LEAVE_OUT_CROPS // drawn.batch_size):
        batch = data.batch(drawn, codec.config.levels, step)
        crops.append(_Crops(batch, codec.encoder(batch.source), codec.side_network(batch.side)))
    weights = distortion_weights(config, codec.config.levels)
    gone: list[list[int]] = []
    for level, weight in enumerate(weights.tolist()):
        gains = codec.quantizer.log_gain.data[level]
        at = torch.tensor([level], device=gains.device)
        used = sum((codec.quantizer(crop.latents, at).indices != 0).sum((0, 2, 3)) for crop in crops)
        least = _cost(codec, crops, level, weight, config)
        gone.append([])
        for plane in torch.as_tensor(used).argsort().tolist():
            kept = float(gains[plane])
            gains[plane] = NO_GAIN
            cost = _cost(codec, crops, level, weight, config)
            if cost < least:
                least = cost
                gone[-1].append(plane)
            else:
                gains[plane] = kept
    return [sorted(planes) for planes in gone]


def _cost(
    codec: ScalarCodec, crops: Sequence[_Crops], level: int, weight: float, config: TrainConfig
) -> float:
    """Mean R + λD of the crops at a level, R in bits a pixel, of rounded indices."""
    costs = []
    for crop in crops:
        source = crop.batch.source
        at = torch.full((len(source),), level, device=source.device)
        quantized = codec.quantizer(crop.latents, at)
        bits = codec.rate_model(quantized, at).sum((1, 2, 3))
        frame = codec.decoder(quantized.latents, at, crop.side, crop.batch.present)
        distortion = distortion_of(frame.clamp(0, 1), source, config.ms_ssim_share)
        costs.append(bits / source[0, 0].numel() + weight * distortion)
    return float(torch.cat(costs).mean())


def finish(
    checkpoint: Checkpoint,
    data: TrainingData,
    steps: int = STEPS,
    *,
    learning_rate: float = LEARNING_RATE,
    device: torch.device,
    advance: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """The averaged weights of `checkpoint` with the rate model fitted, planes left out, and the rate model fitted
    again, `steps` each time. Its `model` has the weights before that: training, which goes on at noise, would be
    thrown far by a rate model that does not expect it. One that is finished is taken as it was before that.
    `advance` is called after each step.

    Raises CheckpointError for a codec without a rate model, TrainingError when a loss is not finite.
    """
    checkpoint = checkpoint.as_trained()
    codec = _codec(checkpoint, device)
    first, second = (_as_trained(checkpoint, data, FIT_SEED + more) for more in (0, 1))
    fit_rate_model(codec, first, data, steps, learning_rate, advance)
    planes = leave_out(codec, _as_trained(checkpoint, data, LEAVE_OUT_SEED), data)
    fit_rate_model(codec, second, data, steps, learning_rate / 2, advance)
    weights = {name: value.detach().cpu().clone() for name, value in codec.state_dict().items()}
    facts = {
        **checkpoint.facts,
        "finish_steps": steps,
        "finished_from": digest(checkpoint.averaged)[:16],
        "left_out": planes,
    }
    return replace(checkpoint, model=checkpoint.averaged, averaged=weights, optimizer={}, facts=facts)


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Of a codec trained with --quantizer scalar.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write, for training.export.")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Pairs that it was trained on, left/ and right/; may repeat.")
    ] = None,
    val_pairs: Annotated[
        list[Path] | None, typer.Option(help="Pairs to measure on, before and after.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of fitting the rate model, twice.")] = STEPS,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at its highest.")] = LEARNING_RATE,
    drives: Annotated[int, typer.Option(min=1, help="Synthetic drives, as in training.")] = 400,
    cache: Annotated[Path, typer.Option(help="Where rendered drives are kept.")] = Path("runs/cache"),
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")] = 0,
) -> None:
    """Fit the rate model to rounded indices, and leave out planes where they do not pay."""
    if threads:
        torch.set_num_threads(threads)
    if output.exists():
        raise CheckpointError(f"{output} exists: give another -o")
    trained = Checkpoint.load(checkpoint).as_trained()
    place = pick_device(device, Ranks())
    console = Console(stderr=True)
    held_out = validation_views(load_pairs(val_pairs or []))
    with console.status("reading pairs") as status:
        loaded = load_pairs(pairs or [], status.update)
        synthetic = trained.train_config.synthetic_share > 0 or not loaded
        rendered = (
            render_drives(drives, seed=DRIVES_SEED, cache=cache, progress=status.update) if synthetic else []
        )
    data, seen = TrainingData(loaded, rendered, place), fingerprint([*loaded, *rendered])
    if trained.facts.get("data") not in (None, seen):
        console.print("note: these are not the pairs and drives that it was trained on")
    with Progress(console=console) as progress:
        task = progress.add_task("finishing", total=2 * steps)
        finished = finish(
            trained,
            data,
            steps,
            learning_rate=learning_rate,
            device=place,
            advance=lambda: progress.update(task, advance=1),
        )
    finished.facts["finish_data"] = seen
    finished.save(output)
    for level, planes in enumerate(finished.facts["left_out"]):
        print(f"level {level}: {len(planes)} of {finished.model_config.stages} planes left out")
    if held_out:
        before, after = (validate(one, held_out, place) for one in (trained, finished))
        finished.facts["finish_validation"] = after
        finished.save(output)
        for level in range(trained.model_config.levels):
            old, new = ((scores["bpp"][level], scores["right"][level]) for scores in (before, after))
            print(f"level {level}: {old[0]} bpp, {old[1]} dB → {new[0]} bpp, {new[1]} dB")
    print(f"{output}: bundle it with training.export")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (NdscError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
