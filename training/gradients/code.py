"""A code for gradients: the paper's fully connected VQ-VAE behind scales that both ends know."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.checkpoint import CheckpointError
from training.config import JsonConfig
from training.paper.convolutional import Mode
from training.paper.dense import DenseConfig, DenseVQVAE

SCALE_BITS: Final = 8
HISTORY_DECAY: Final = 0.9
_SCALE_LOWEST, _SCALE_STEPS_AN_OCTAVE, _NOT_FINITE = -13.0, 10.0, 2**SCALE_BITS - 1


class VectorCode(Protocol):
    """What `DistributedGradientCode` needs of a code. An encoder sees x and the history, the server all but x."""

    length: int
    """Of the vectors it codes; the hook cuts a bucket into rows of this length."""

    message_bytes: int
    """Bytes of the message of one vector."""

    start: Tensor
    """float32 [length]: magnitudes of the coordinates before there is a history."""

    def encode(self, source: Tensor, magnitudes: Tensor) -> Tensor:
        """Messages uint8 [B, message_bytes] of float32 vectors [B, length]."""
        ...

    def estimate(self, messages: Tensor, side: Tensor, magnitudes: Tensor) -> Tensor:
        """What stands for x in the mean with y: float32 [B, length] from messages and y [B, length]."""
        ...


@dataclass(frozen=True)
class GradientCodeConfig(JsonConfig):
    """Sizes of a gradient code; the defaults are the paper's but for what is said.

    One message is a scale of 8 bits and `positions` indices of 8 bits: 320 bits for 412 numbers.
    """

    length: int = 412
    positions: int = 39
    """Indices sent for one vector (paper: 40, and no scale)."""
    latent_dimension: int = 8
    """Length of a code vector (paper: 128, which is slower to train and comes out no better)."""
    hidden: int = 512
    """Width of the network (paper: 256, which leaves x half of that at the encoder's first layer)."""
    residual: int = 128
    blocks: int = 1
    mode: str = Mode.DISTRIBUTED.value

    def dense(self) -> DenseConfig:
        """The network's own settings."""
        return DenseConfig(
            length=self.length,
            positions=self.positions,
            bits=8,
            latent_dimension=self.latent_dimension,
            hidden=self.hidden,
            residual=self.residual,
            blocks=self.blocks,
            mode=self.mode,
        )


def next_squares(squares: Tensor, mean: Tensor) -> Tensor:
    """The history after one more step: running mean squares of the averaged gradients that all ranks received.

    What is not finite leaves no trace.
    """
    return torch.where(mean.isfinite(), torch.lerp(mean.square(), squares, HISTORY_DECAY), squares)


def magnitudes_of(squares: Tensor) -> Tensor:
    """Magnitudes [B, length] of the coordinates from a history [B, length]; none under 1 % of its row's."""
    least = 1e-4 * squares.mean(1, keepdim=True) + 1e-30
    return torch.maximum(squares, least).sqrt()


def quantize_scale(scale: Tensor) -> Tensor:
    """Nearest of 255 levels, ten an octave from 2^-13 to 2^12.4, as uint8; 255 is kept for what is not finite."""
    level = (scale.clamp(min=2.0**_SCALE_LOWEST).log2() - _SCALE_LOWEST) * _SCALE_STEPS_AN_OCTAVE
    return torch.where(scale.isfinite(), level.round().clamp(0, _NOT_FINITE - 1), _NOT_FINITE).to(torch.uint8)


def scale_of(level: Tensor) -> Tensor:
    """The scale that a level of `quantize_scale` stands for, float32; NaN for what was not finite."""
    scale = torch.exp2(level.float() / _SCALE_STEPS_AN_OCTAVE + _SCALE_LOWEST)
    return torch.where(level == _NOT_FINITE, torch.nan, scale)


class GradientCode(nn.Module):
    """Codes vectors x [B, length]; `mode` says who sees the side information y.

    Coordinates are divided by magnitudes that both ends know from earlier steps, so that an error counts as much
    as it moves Adam, which divides by much the same; what is left is divided by its root mean square, sent as one
    byte. y is divided by the same numbers.
    """

    start: Tensor

    def __init__(self, config: GradientCodeConfig, start: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.length = config.length
        self.message_bytes = 1 + config.positions
        self.network = DenseVQVAE(config.dense())
        self.register_buffer("start", torch.ones(config.length) if start is None else start)

    def levels(self, source: Tensor, magnitudes: Tensor) -> Tensor:
        """Scale level uint8 [B] of each row."""
        return quantize_scale((source / magnitudes).square().mean(1).sqrt())

    def divisors(self, levels: Tensor, magnitudes: Tensor) -> Tensor:
        """[B, length]: what x and y are divided by."""
        return magnitudes * scale_of(levels)[:, None]

    @torch.no_grad()
    def encode(self, source: Tensor, magnitudes: Tensor, side: Tensor | None = None) -> Tensor:
        """Messages uint8 [B, 1 + positions]. Raises ValueError for a joint code without y."""
        if side is None:
            if self.config.mode == Mode.JOINT:
                raise ValueError("a joint code needs the side information at its encoder")
            side = torch.zeros_like(source)
        levels = self.levels(source, magnitudes)
        divisors = self.divisors(levels, magnitudes)
        latents = self.network.encode(source / divisors, side / divisors)
        indices = self.network.quantizer(latents).indices
        return torch.cat([levels[:, None], indices.flatten(1).to(torch.uint8)], 1)

    @torch.no_grad()
    def decode(self, messages: Tensor, side: Tensor, magnitudes: Tensor) -> Tensor:
        """float32 [B, length] from messages and y [B, length]."""
        divisors = self.divisors(messages[:, 0], magnitudes)
        one = torch.ones(len(messages), dtype=torch.int64, device=messages.device)
        latents = self.network.quantizer.lookup(messages[:, None, None, 1:].long(), one)
        return self.network.decode(latents, side / divisors) * divisors

    @torch.no_grad()
    def estimate(self, messages: Tensor, side: Tensor, magnitudes: Tensor) -> Tensor:
        """x̂ + (y − ŷ), where ŷ is what this code would make of y: [B, length].

        The nearest x̂ is not the best one to average with y. It is near zero wherever the message says nothing, so
        the mean is y / 2 there and y where x came through, and training slows down in all directions that the code
        leaves out. The correction puts y where the code is silent and changes nothing where it is exact.
        """
        own = self.decode(self.encode(side, magnitudes, side), side, magnitudes)
        return self.decode(messages, side, magnitudes) + side - own

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write weights and settings to one safetensors file; `facts` say how it was trained."""
        record = {"config": self.config.to_dict(), "facts": facts}
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, path, metadata={"gradient_code": json.dumps(record)})

    @classmethod
    def load(cls, path: Path) -> GradientCode:
        """Read what `save` wrote, in evaluation mode. Raises CheckpointError when it is none."""
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads(file.metadata()["gradient_code"])
            code = cls(GradientCodeConfig.from_dict(record["config"]))
            code.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a gradient code ({error})") from error
        return code.eval()


def fingerprint(code: VectorCode) -> int:
    """A CRC-32 of sizes and weights: the same number for the same code."""
    value = zlib.crc32(f"{code.length} {code.message_bytes}".encode())
    if isinstance(code, nn.Module):
        for name, tensor in sorted(code.state_dict().items()):
            value = zlib.crc32(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes(), value)
    return value
