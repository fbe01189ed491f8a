"""Checkpoints: one directory with safetensors and JSON, replaced as a whole. No pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ndsc.codec.errors import NdscError
from training.config import ModelConfig, TrainConfig
from training.scalar_codec import Codec, build

FINISH_FACTS = ("finish_steps", "finish_data", "finish_validation", "finished_from", "left_out")
"""What `training.finish` adds to the facts."""


class CheckpointError(NdscError):
    """A checkpoint cannot be read or does not fit the run."""


@dataclass(frozen=True)
class Checkpoint:
    """All of a run that the next step depends on."""

    model_config: ModelConfig
    train_config: TrainConfig
    step: int
    """Steps done."""
    model: dict[str, Tensor]
    """What the next step changes. Of a finished codec (`training.finish`) the averaged weights before that, which
    training goes on from."""
    averaged: dict[str, Tensor]
    """Weights and codebooks averaged over steps: these are validated and exported."""
    optimizer: dict[str, Tensor]
    """Moments as `NAME.exp_avg` and so on, by parameter name."""
    facts: dict[str, Any]
    """What a model card needs: data, machine, seconds, validation history."""

    def save(self, directory: Path) -> None:
        """Write to `directory`, so that an interruption leaves the old or the new checkpoint and never half."""
        unfinished = directory.with_name(directory.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        parts = {"model": self.model, "averaged": self.averaged, "optimizer": self.optimizer}
        if not self.optimizer:  # nobody resumes it: of the model what the averaged weights do not say
            other = {k: v for k, v in self.model.items() if not torch.equal(v.cpu(), self.averaged[k].cpu())}
            parts = {"averaged": self.averaged} | ({"model": other} if other else {})
        for name, part in parts.items():
            tensors = {k: v.detach().cpu().contiguous() for k, v in part.items()}
            save_file(tensors, unfinished / f"{name}.safetensors")
        record = {
            "model_config": self.model_config.to_dict(),
            "train_config": self.train_config.to_dict(),
            "step": self.step,
            "facts": self.facts,
        }
        (unfinished / "checkpoint.json").write_text(json.dumps(record, indent=2) + "\n")
        previous = directory.with_name(directory.name + ".old")
        if directory.exists():  # or the previous one is all there is, until the renaming below
            shutil.rmtree(previous, ignore_errors=True)
            directory.rename(previous)
        unfinished.rename(directory)
        shutil.rmtree(previous, ignore_errors=True)

    @classmethod
    def load(cls, directory: Path) -> Checkpoint:
        """Read a checkpoint; one without an optimizer has of the model only what the averaged weights do not say.
        Raises CheckpointError with one line when it is missing or damaged."""
        previous = directory.with_name(directory.name + ".old")
        if not directory.exists() and previous.exists():  # stopped between the two renames of `save`
            directory = previous
        try:
            record = json.loads((directory / "checkpoint.json").read_text())
            resumable = (directory / "optimizer.safetensors").exists()
            optimizer = load_file(directory / "optimizer.safetensors") if resumable else {}
            averaged = load_file(directory / "averaged.safetensors")
            model = directory / "model.safetensors"
            changed = load_file(model) if resumable or model.exists() else {}
            return cls(
                ModelConfig.from_dict(record["model_config"]),
                TrainConfig.from_dict(record["train_config"]),
                record["step"],
                model=changed if resumable else averaged | changed,
                averaged=averaged,
                optimizer=optimizer,
                facts=record["facts"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{directory}: not a checkpoint ({error})") from error

    @property
    def finished(self) -> bool:
        """Whether `training.finish` made it."""
        return "finish_steps" in self.facts

    def as_trained(self) -> Checkpoint:
        """Before it was finished: what training goes on from, for a rate model fitted to rounded indices does not
        expect the noise of training. Itself when it is not finished."""
        if not self.finished:
            return self
        facts = {name: fact for name, fact in self.facts.items() if name not in FINISH_FACTS}
        return replace(self, averaged=self.model, facts=facts)

    def averaged_model(self) -> Codec:
        """The codec with averaged weights, in evaluation mode."""
        model = build(self.model_config)
        load_weights(model, self.averaged)
        return model.eval()


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values, in hexadecimal digits."""
    made = hashlib.sha256()
    for name, value in sorted(weights.items()):
        made.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return made.hexdigest()


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Raises CheckpointError when they are not those of such a model (or of an earlier release's)."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's weights do not fit its own settings: {error}") from error


def optimizer_tensors(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state by parameter name (safetensors holds flat names only)."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizers(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    owners = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for name, value in tensors.items():
        parameter_name, key = name.rsplit(".", 1)
        parameter = parameters[parameter_name]
        # Adam keeps its step counter on the CPU; moments live beside their parameter.
        owners[id(parameter)].state[parameter][key] = value if key == "step" else value.to(parameter.device)
