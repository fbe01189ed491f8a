"""One training loop for the paper's codes: Adam, EMA codebook, straight-through gradient, resumable.

A batch is a pure function of its step, so a run that was stopped goes on with the same losses.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ndsc.codec.errors import NdscError
from training.checkpoint import CheckpointError, optimizer_tensors, restore_optimizers
from training.config import JsonConfig, Precision
from training.paper.convolutional import Coded
from training.quantizer import ResidualQuantizer
from training.ranks import Ranks

NOTHING_ELSE: Final[Mapping[str, Any]] = MappingProxyType({})
ONE_PROCESS: Final = Ranks()


class FitError(NdscError):
    """A training run that cannot go on: its loss is no longer finite."""


class Code(Protocol):
    """A conditional VQ-VAE of one stage: `ConvolutionalVQVAE` or `DenseVQVAE`."""

    config: Any
    quantizer: ResidualQuantizer

    def encode(self, source: Tensor, side: Tensor) -> Tensor:
        """Latents [B, D, h, w]."""
        ...

    def decode(self, latents: Tensor, side: Tensor) -> Tensor:
        """x̂, of the shape of the source."""
        ...


Sampler = Callable[[int], tuple[Tensor, Tensor]]
"""Step → (x, y), float32 on the model's device; the same step always gives the same batch."""

Distortion = Callable[[Tensor, Tensor], Tensor]
"""(x̂, x) → the scalar that is minimised beside the commitment loss."""


def mean_squared_error(output: Tensor, source: Tensor) -> Tensor:
    """Mean over batch, channels and pixels."""
    return (output - source).square().mean()


@dataclass(frozen=True)
class FitConfig(JsonConfig):
    """One training run of a paper code."""

    steps: int = 2000
    learning_rate: float = 3e-4
    warm_up_steps: int = 50
    cosine: bool = True
    """Half a cosine down to zero; constant otherwise."""
    commitment: float = 0.25
    """Weight of the commitment loss (paper: 0.25 stereo, 0.15 binary source and gradients)."""
    codebook_decay: float = 0.99
    published_codebook: bool = False
    """The paper's codebook: random start of scale 0.05, dead vectors stay dead. Otherwise a k-means start after
    `unquantized_steps`, and a dead vector moves to a random latent."""
    unquantized_steps: int = 50
    gradient_clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """How a run went."""

    steps: int
    seconds: float
    """Time in training steps and in making their batches, over all sessions of a resumed run."""
    losses: tuple[float, ...]
    """Mean distortion of each hundredth of the run."""


def fit(
    model: nn.Module,
    sample: Sampler,
    config: FitConfig,
    *,
    distortion: Distortion = mean_squared_error,
    directory: Path | None = None,
    made_with: Mapping[str, Any] = NOTHING_ELSE,
    ranks: Ranks = ONE_PROCESS,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] = lambda done, total: None,
    save_seconds: float = 60.0,
) -> Fitted:
    """Train `model` (a `Code`) in place to the end of `config.steps`.

    Args:
        model: a `ConvolutionalVQVAE` or `DenseVQVAE`, on the device it is to be trained on.
        sample: the batches, whole ones on every rank.
        config: the dials.
        distortion: what is minimised beside the commitment loss.
        directory: where the run is kept; a finished run there is loaded and not done again, an unfinished one goes
            on. None keeps nothing.
        made_with: what else decides the run (data, batch size, loss): JSON values, kept with it. A run in
            `directory` that was made with something else is not taken.
        ranks: the processes that share each batch; all end with the same weights, and the first one keeps the run.
        precision: what the networks compute in.
        progress: called as progress(steps done, steps).
        save_seconds: between checkpoints.

    Raises:
        CheckpointError: `directory` holds a run with other settings.
        FitError: the loss is no longer finite.
        RanksError: `ranks` cannot share a batch of this size.
    """
    run = _Run(model, config, made_with, ranks, precision)
    if directory is not None:
        run.restore(directory)
    if run.step == 0 and config.published_codebook:
        run.start_published()
    model.train()
    saved = time.monotonic()
    while run.step < config.steps:
        started = time.perf_counter()
        if run.step == config.unquantized_steps and not config.published_codebook:
            run.start_from_kmeans(sample)
        run.train_step(*sample(run.step), distortion)
        run.seconds += time.perf_counter() - started
        progress(run.step, config.steps)
        if directory is not None and (time.monotonic() - saved > save_seconds or run.step == config.steps):
            run.save(directory)
            saved = time.monotonic()
    model.eval()
    return Fitted(run.step, run.seconds, tuple(run.losses))


class _Run:
    def __init__(
        self,
        model: nn.Module,
        config: FitConfig,
        made_with: Mapping[str, Any],
        ranks: Ranks,
        precision: Precision,
    ) -> None:
        self.model, self.config, self.ranks, self.precision = model, config, ranks, precision
        # Through JSON, which knows lists only, so that it compares equal to itself read back.
        self.made_with = json.loads(json.dumps(dict(made_with)))
        self.code: Code = model  # type: ignore[assignment]
        self.code.quantizer.share(ranks)
        self.network = DistributedDataParallel(model) if ranks.count > 1 else model
        self.codebook = self.code.quantizer.codebooks[0]
        self.codebook.decay = config.codebook_decay
        if config.published_codebook:
            self.codebook.dead_below = 0.0
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self._pending: list[Tensor] = []

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)

    @torch.no_grad()
    def start_published(self) -> None:
        vectors = self.codebook.vectors
        vectors.copy_(0.05 * torch.randn(vectors.shape, generator=self._generator()).to(vectors.device))
        self.codebook.sums.copy_(vectors * self.codebook.counts[:, None])

    @torch.no_grad()
    def start_from_kmeans(self, sample: Sampler) -> None:
        latents: list[Tensor] = []
        needed = 4 * len(self.codebook.vectors)
        step = self.config.steps  # steps past the end: samples no training step sees
        while len(latents) < 4 or sum(x.shape[0] * x.shape[2] * x.shape[3] for x in latents) < needed:
            latents.append(self.code.encode(*sample(step)).cpu())
            step += 1
        device = self.codebook.vectors.device
        self.code.quantizer.cpu().start_from_kmeans(torch.cat(latents), self._generator())
        self.code.quantizer.to(device)

    def learning_rate(self) -> float:
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warm_up_steps))
        done = max(0.0, (self.step - config.warm_up_steps) / max(1, config.steps - config.warm_up_steps))
        return config.learning_rate * warm * (0.5 * (1 + math.cos(math.pi * done)) if config.cosine else 1.0)

    def train_step(self, source: Tensor, side: Tensor, distortion: Distortion) -> None:
        config = self.config
        mine = self.ranks.share(len(source))
        source, side = source[mine], side[mine]
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        quantize = config.published_codebook or self.step >= config.unquantized_steps
        with torch.autocast(source.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            coded: Coded = self.network(source, side, quantize=quantize, generator=self._generator())
        loss = distortion(coded.output.float(), source)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + config.commitment * coded.quantized.commitment).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        self._pending.append(loss.detach())
        if self.step % max(1, config.steps // 100) == 0 or self.step == config.steps:
            mean = float(self.ranks.mean(torch.stack(self._pending).mean()))  # the only wait for a GPU
            self._pending = []
            if not math.isfinite(mean):
                raise FitError(f"the loss is {mean} at step {self.step}: lower the learning rate")
            self.losses.append(mean)

    def _record(self) -> dict[str, Any]:
        return {
            "model": self.code.config.to_dict(),
            "fit": self.config.to_dict(),
            "made_with": self.made_with,
        }

    def save(self, directory: Path) -> None:
        if self.ranks.rank > 0:
            return
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.step < self.config.steps:  # a finished run needs no moments
            tensors |= {
                f"optimizer.{k}": v for k, v in optimizer_tensors(self.model, [self.optimizer]).items()
            }
        record = self._record() | {
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "pending": [float(x) for x in self._pending],
        }
        unfinished = directory / "run.part"
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            unfinished,
            metadata={"run": json.dumps(record)},
        )
        unfinished.replace(directory / "run.safetensors")

    def restore(self, directory: Path) -> None:
        path = directory / "run.safetensors"
        if not path.exists():
            return
        record, tensors = read_run(path)
        if {k: record.get(k, {}) for k in ("model", "fit", "made_with")} != self._record():
            raise CheckpointError(f"{path}: a run with other settings; give them again, or another --output")
        self.model.load_state_dict(tensors["model"])
        restore_optimizers(self.model, [self.optimizer], tensors["optimizer"])
        self.step, self.seconds, self.losses = record["step"], record["seconds"], record["losses"]
        self._pending = [torch.tensor(x) for x in record["pending"]]


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """What `fit` kept: its record (`model`, `fit`, `made_with`, `step`, `seconds`, `losses`) and tensors.

    The tensors are those of `model` and, in an unfinished run, `optimizer`.

    Raises CheckpointError when the file is none of these.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["run"])
        flat = load_file(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a run ({error})") from error
    tensors: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for name, value in flat.items():
        kind, rest = name.split(".", 1)
        tensors[kind][rest] = value
    return record, tensors
