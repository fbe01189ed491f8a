"""A training run in memory: its steps, and what a checkpoint keeps of it. `training.train` is the command."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
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
from training.config import ModelConfig, TrainConfig
from training.data import Batch, TrainingData
from training.layers import Pointwise
from training.model import ConditionalVQVAE
from training.ranks import Ranks
from training.scalar_codec import Codec, ScalarCodec, build


class TrainingError(NdscError):
    """A run that cannot start or go on."""


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
            raise TrainingError(
                f"the loss is {loss} at step {self.step}: lower --learning-rate, and "
                "--muon-learning-rate, --gain-learning-rate and --rate-learning-rate where they are used"
            )
        return StepLoss(self.step, loss, mse, other)


def make_optimizers(model: Codec, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon (Jordan et al. 2024) for the matrices of encoder, side network and decoder.

    Embeddings and biases are no matrices in Muon's sense, nor is anything of quantizer and rate model. The
    `initial_lr` of a group is its largest.
    """
    matrices = []
    if config.optimizer == "muon":
        matrices = [m.weight for m in model.modules() if isinstance(m, Pointwise)]
    groups: list[dict[str, Any]] = []
    if isinstance(model, ScalarCodec):
        groups = [
            {"params": list(model.quantizer.parameters()), "lr": config.gain_learning_rate},
            {"params": list(model.rate_model.parameters()), "lr": config.rate_learning_rate},
        ]
    apart = [*matrices, *(parameter for group in groups for parameter in group["params"])]
    numbers = {id(parameter) for parameter in apart}
    others = [p for p in model.parameters() if id(p) not in numbers]
    groups.append({"params": others, "lr": config.learning_rate})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=config.weight_decay)
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
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
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
        """Take another run's averaged weights, of a finished codec those before; the encoder may have had another
        activation. Raises CheckpointError when that codec has other settings."""
        activation = self.model_config.encoder_activation
        if replace(checkpoint.model_config, encoder_activation=activation) != self.model_config:
            raise CheckpointError("the codec to start from has other settings: give them again")
        load_weights(self.model, checkpoint.as_trained().averaged)
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
                group["lr"] = group["initial_lr"] * schedule(config, self.step)
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
