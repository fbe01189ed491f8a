"""Codes that are compared at equal bits: equal starts, equal batches, the fixed-length rate of their indices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.config import JsonConfig
from training.datasets.views import Views, WindowSampler
from training.experiments.recipe import RecipeError
from training.paper.convolutional import ConvolutionalVQVAE, FamilyConfig, Mode
from training.paper.dense import DenseConfig, DensePictureVQVAE
from training.paper.fitting import FitConfig, fit, mean_squared_error
from training.paper.scoring import Score, score

CodeConfig = FamilyConfig | DenseConfig
PictureCode = ConvolutionalVQVAE | DensePictureVQVAE


@dataclass(frozen=True)
class Setup(JsonConfig):
    """What all codes of one comparison share."""

    family: CodeConfig
    """Widths and depth; bits, mode and sizes of the pictures are filled in by `code`."""
    bits: tuple[int, ...]
    """Bits of one index, one code for each."""
    seeds: int
    steps: int
    batch_size: int
    window_px: int
    """Width of a training window; the height is the pictures'."""
    learning_rate: float = 1e-3
    distortion_weight: float = 50.0
    """Weight of the MSE beside 0.25 times the commitment loss. The paper's is 1; short trainings with it did
    worse."""
    warm_up_steps: int = 100
    unquantized_steps: int = 100

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise RecipeError("bars need at least two seeds")

    def code(self, views: Views, bits: int, mode: Mode = Mode.DISTRIBUTED) -> CodeConfig:
        """The code of one codebook and mode for windows of `views`."""
        common = replace(self.family, bits=bits, mode=mode.value)
        if isinstance(common, DenseConfig):
            return replace(common, length=views.source_channels * views.height * self.window_px)
        return replace(common, source_channels=views.source_channels, side_channels=views.side_channels)

    def scaled(self, width: float, layers: int | None) -> Setup:
        """The same with all widths of the networks times this, and with `layers` residual layers if given."""
        family = self.family
        if isinstance(family, DenseConfig):
            hidden, residual = round(family.hidden * width), round(family.residual * width)
            blocks = family.blocks if layers is None else layers
            return replace(self, family=replace(family, hidden=hidden, residual=residual, blocks=blocks))
        depth = family.residual_layers if layers is None else layers
        return replace(self, family=family.scaled(width, depth))

    def fit_config(self, seed: int) -> FitConfig:
        """The training run of one seed."""
        return FitConfig(
            steps=self.steps,
            learning_rate=self.learning_rate,
            warm_up_steps=min(self.warm_up_steps, self.steps // 4),
            unquantized_steps=min(self.unquantized_steps, self.steps // 2),
            seed=seed,
        )


@dataclass(frozen=True)
class Trained:
    """One code after training, and how it did."""

    model: PictureCode
    score: Score
    seconds: float
    """Of training."""


def start(config: CodeConfig, seed: int, mean: float = 0.0) -> PictureCode:
    """An untrained code; those of one seed start from the same weights, joint and distributed compute the same.

    The output starts around `mean`, that of x in [-0.5, 0.5]: digits are nearly black, and from grey a code
    may rush to where the sigmoid has no slope, and stay there.

    The joint encoder's layer for y starts at zero. Started like the others, its latents vary with y from the first
    step and the codebook is spent on what the decoder knows: a short training does not get over it.
    """
    torch.manual_seed(seed)
    model = _untrained(replace(config, mode=Mode.DISTRIBUTED.value))
    model.start_around(mean)
    if config.mode == Mode.DISTRIBUTED:
        return model
    other = _untrained(config)
    other.load_state_dict(model.state_dict(), strict=False)
    other.start_blind()
    return other


def _untrained(config: CodeConfig) -> PictureCode:
    return DensePictureVQVAE(config) if isinstance(config, DenseConfig) else ConvolutionalVQVAE(config)


def train(
    setup: Setup,
    train_views: Views,
    test_views: Views,
    config: CodeConfig,
    seed: int,
    directory: Path,
    advance: Callable[[int], None] = lambda steps: None,
) -> Trained:
    """Train one code and score it on `test_views`, whole windows; what `directory` has finished is kept.

    Args:
        setup: shared settings.
        train_views: where windows are drawn from; its device is the code's.
        test_views: the windows to score.
        config: the code, its channels those of the views.
        seed: of start, batches and codebook.
        directory: where the run is kept, see `run_folder`.
        advance: called as advance(steps done).
    """
    mean = float(train_views.pictures[0].float().mean()) / 255 - 0.5
    model = start(config, seed, mean).to(train_views.pictures[0].device)
    # A fifth less time for convolutions on a CPU (measured).
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sampler = WindowSampler(train_views, setup.batch_size, setup.window_px, seed)
    fitted = fit(
        model,
        sampler,
        setup.fit_config(seed),
        distortion=lambda output, source: setup.distortion_weight * mean_squared_error(output, source),
        directory=directory,
        progress=lambda done, total: advance(done),
    )
    advance(setup.steps)
    kept = directory / "score.json"
    if kept.exists():
        return Trained(model, Score(**json.loads(kept.read_text())), fitted.seconds)
    scored = score(model, test_views)
    kept.write_text(json.dumps(asdict(scored)) + "\n")
    return Trained(model, scored, fitted.seconds)


def run_folder(output: Path, name: str, setup: Setup, *views: Views) -> Path:
    """Where the runs of `name` are kept below `output`: another one when batches, loss or pictures are others."""
    digest = hashlib.sha256(f"{setup.batch_size} {setup.window_px} {setup.distortion_weight}".encode())
    for picture in (picture for view in views for picture in view.pictures):
        digest.update(str(tuple(picture.shape)).encode() + picture[:, :, ::8, ::8].cpu().numpy().tobytes())
    return output / "runs" / f"{name}-{digest.hexdigest()[:8]}"


@contextmanager
def progress_bar(total_steps: int) -> Iterator[Callable[[str, int], None]]:
    """A bar on stderr over all codes; the function that it gives takes (code, its steps done)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total_steps)
        done: dict[str, int] = {}

        def advance(code: str, steps: int) -> None:
            done[code] = steps
            bar.update(task, completed=sum(done.values()), description=code)

        yield advance
