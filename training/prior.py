"""The integer latent prior: `python -m training.prior BUNDLE INDICES --validation INDICES -o BUNDLE`.

One small network for each pass of the coding schedule (`ndsc.codec.context`) predicts a group of indices from
those already known. Weights, activations, embeddings and logits are rounded in every forward pass of training
(straight-through gradients), so what is trained is bit for bit what is exported: float32 sums of integers that
`ndsc.codec.exact` proves to be exact. Every scale is a power of two.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.context import BANDS, PHASES, ContextPrior, Group, Stage, pass_name, softmax_weights
from ndsc.codec.errors import BundleError, NdscError
from training.config import JsonConfig
from training.indices import GridBatch, GridSampler, IndexGrids
from training.prior_graph import Layer, PassWeights, prior_onnx

WINDOW: Final = (16, 32)
"""Rows and columns of a training sample: the grid of a 128×256 frame."""


@dataclass(frozen=True)
class PriorConfig(JsonConfig):
    """One latent prior and its training run."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    channels: int = 64
    embedding: int = 24
    """Length of an index's embedding."""
    blocks: int = 2
    """Residual blocks of two 1×1 convolutions after the 3×3 one."""
    activation_bits: int = 4
    """Activations and logits are multiples of 2**-4, up to 255 of them."""
    weight_bits: int = 7
    """Weights are multiples of 2**-7, up to 127 of them."""
    quantize: bool = True
    """False trains the same prior in floats, to tell what exactness costs; it cannot be exported."""
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 2e-3
    warm_up_steps: int = 50
    protocol_share: float = 2 / 3
    """Share of samples that are views of the `kitti128` kind; the others are windows of whole frames."""
    validate_every: int = 200
    seed: int = 0


def schedule(codebook_sizes: Sequence[int]) -> list[list[tuple[int, list[list[int]]]]]:
    """(scale, phases) of each group of each stage, at most 8 of them predicted by networks.

    The first stage holds most of the structure and gets five passes, first at every second position; a second
    stage hangs mostly on the first, at the same position, and gets two; one more stage gets one pass.
    """
    first = [(1, [[0, 0]]), (1, [[1, 1]]), (1, [[0, 1], [1, 0]]), (0, [[1, 1]]), (0, [[0, 1]]), (0, [[1, 0]])]
    second = [(0, [[0, 0], [1, 1]]), (0, [[0, 1], [1, 0]])]
    later = [(0, [[0, 0], [0, 1], [1, 0], [1, 1]])]
    return [first, second, later, *([later] * len(codebook_sizes))][: len(codebook_sizes)]


def low_bits(codebook_size: int) -> int:
    """Digits of about equal size, the low one a power of two; none for a codebook that is small or odd."""
    if codebook_size <= 16:
        return 0
    bits = round(math.log2(codebook_size) / 2)
    while codebook_size % (1 << bits):
        bits -= 1
    return bits


def _rounded(x: Tensor, fraction_bits: int) -> Tensor:
    """To multiples of 2**-fraction_bits, halves up; the gradient passes straight through."""
    scale = float(1 << fraction_bits)
    return x + (torch.floor(x * scale + 0.5) / scale - x).detach()


class _Rounding(nn.Module):
    """Holds how weights and activations are rounded."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config

    def weights(self, x: Tensor) -> Tensor:
        if not self.config.quantize:
            return x
        limit = 127 / (1 << self.config.weight_bits)
        return _rounded(x, self.config.weight_bits).clamp(-limit, limit)

    def sums(self, x: Tensor) -> Tensor:
        """Biases, at the scale of a sum of products."""
        return _rounded(x, self.config.weight_bits + self.config.activation_bits) if self.config.quantize else x

    def embeddings(self, x: Tensor) -> Tensor:
        if not self.config.quantize:
            return x
        limit = 127 / (1 << self.config.activation_bits)
        return _rounded(x, self.config.activation_bits).clamp(-limit, limit)

    def to_steps(self, x: Tensor) -> Tensor:
        return _rounded(x, self.config.activation_bits) if self.config.quantize else x

    def activation(self, x: Tensor) -> Tensor:
        return x.clamp(0, 255 / (1 << self.config.activation_bits)) if self.config.quantize else x.clamp(min=0)


class _Convolution(nn.Module):
    def __init__(self, rounding: _Rounding, inputs: int, outputs: int, size: int, gain: float = 1.0) -> None:
        super().__init__()
        self.rounding = rounding
        fan_in = inputs * size * size
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size) * gain / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.rounding.weights(self.weight), self.rounding.sums(self.bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def layer(self) -> Layer:
        config = self.rounding.config
        return Layer(
            _integers(self.rounding.weights(self.weight), config.weight_bits),
            _integers(self.rounding.sums(self.bias), config.weight_bits + config.activation_bits),
        )


def _integers(x: Tensor, fraction_bits: int) -> npt.NDArray[np.float32]:
    scaled = x.detach().double() * (1 << fraction_bits)
    if not torch.equal(scaled, scaled.round()):
        raise BundleError("a prior trained in floats cannot be exported")
    return scaled.numpy().astype(np.float32)


class PassNetwork(nn.Module):
    """Logits of one group from the indices before it.

    `known` indices of its own stage and all four phases of each earlier stage are embedded, seen through one 3×3
    convolution over cells (5×5 to 6×6 positions), then position by position.
    """

    def __init__(self, config: PriorConfig, stage: int, known: int, phases: int, logits: int) -> None:
        super().__init__()
        self.rounding = _Rounding(config)
        sizes = config.codebook_sizes
        self.own = nn.Parameter(torch.randn(sizes[stage], config.embedding) * 0.5) if known else None
        self.earlier = nn.ParameterList(
            nn.Parameter(torch.randn(sizes[t], config.embedding) * 0.5) for t in range(stage)
        )
        planes = known + (4 if stage else 0)
        self.first = _Convolution(self.rounding, planes * config.embedding, config.channels, 3)
        self.band = nn.Parameter(torch.zeros(BANDS, config.channels))
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                _Convolution(self.rounding, config.channels, config.channels, 1, gain) for gain in (1.0, 0.3)
            )
            for _ in range(config.blocks)
        )
        self.head = _Convolution(self.rounding, config.channels, phases * logits, 1)

    def forward(self, known: Sequence[Tensor], earlier: Sequence[Sequence[Tensor]], bands: Tensor) -> Tensor:
        """Phases int64 [B, h, w] of this stage and, stage by stage, of the earlier ones; bands [B, h] → logits."""
        embed, rounding = F.embedding, self.rounding
        parts = []
        if self.own is not None:
            table = rounding.embeddings(self.own)
            parts += [embed(plane, table) for plane in known]
        tables = [rounding.embeddings(table) for table in self.earlier]
        for phase in range(4 if tables else 0):
            parts.append(torch.stack([embed(earlier[t][phase], table) for t, table in enumerate(tables)]).sum(0))
        x = torch.cat(parts, dim=-1).permute(0, 3, 1, 2)
        by_row = embed(bands, rounding.sums(self.band)).permute(0, 2, 1)[..., None]
        x = rounding.activation(rounding.to_steps(self.first(x) + by_row))
        for inner, outer in self.blocks:
            branch = rounding.activation(rounding.to_steps(inner(x)))
            x = rounding.activation(x + rounding.to_steps(outer(branch)))
        return rounding.to_steps(self.head(x))

    def integer_weights(self) -> PassWeights:
        """What `prior.onnx` holds of this pass."""
        config = self.rounding.config
        sum_bits = config.weight_bits + config.activation_bits

        def table(parameter: Tensor) -> npt.NDArray[np.float32]:
            rows = _integers(self.rounding.embeddings(parameter), config.activation_bits)
            # One more row, of zeros, for positions outside the grid: what a convolution pads with.
            return np.concatenate([rows, np.zeros_like(rows[:1])])

        layers = [m.layer() for block in self.blocks for m in block]  # type: ignore[union-attr]
        return PassWeights(
            own=table(self.own) if self.own is not None else None,
            earlier=[table(parameter) for parameter in self.earlier],
            first=self.first.layer(),
            band=_integers(self.rounding.sums(self.band), sum_bits),
            blocks=[(layers[i], layers[i + 1]) for i in range(0, len(layers), 2)],
            head=self.head.layer(),
            weight_bits=config.weight_bits,
        )


def _nats(logits: Tensor, indices: Tensor, stage: Stage) -> Tensor:
    """-ln p of indices int64 [B, h, w] under logits [B, L, h, w]: high digit, then low digit given the high one."""
    high, low = indices >> stage.low_bits, indices & ((1 << stage.low_bits) - 1)
    nats = F.cross_entropy(logits[:, : stage.high_size], high, reduction="none")
    if stage.low_bits:
        batch, _, height, width = logits.shape
        by_high = logits[:, stage.high_size :].reshape(batch, stage.high_size, -1, height, width)
        pick = high[:, None, None].expand(-1, 1, by_high.shape[2], -1, -1)
        nats = nats + F.cross_entropy(by_high.gather(1, pick)[:, 0], low, reduction="none")
    return nats


class LatentPrior(nn.Module):
    """Every pass of every stage."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = []
        networks, tables = {}, {}
        for s, (size, groups) in enumerate(zip(config.codebook_sizes, schedule(config.codebook_sizes), strict=True)):
            bits = low_bits(size)
            logits = (size >> bits) + (size if bits else 0)
            blank = [[0] * logits] * BANDS
            stage = Stage(
                codebook_size=size,
                low_bits=bits,
                groups=[
                    Group(scale=scale, phases=phases, table=blank if (s, g) == (0, 0) else None)
                    for g, (scale, phases) in enumerate(groups)
                ],
            )
            self.stages.append(stage)
            for g, group in enumerate(stage.groups):
                name = pass_name(s, g)
                if group.table is not None:
                    tables[name] = nn.Parameter(torch.zeros(BANDS, logits))
                else:
                    known = len(_known_phases(stage, g))
                    networks[name] = PassNetwork(config, s, known, len(group.phases), logits)
        self.networks, self.tables = nn.ModuleDict(networks), nn.ParameterDict(tables)
        self.rounding = _Rounding(config)

    def start_tables(self, batches: Sequence[GridBatch]) -> None:
        """Set the tables to how often each index was seen in each band."""
        for name, parameter in self.tables.items():
            s, g = (int(part) for part in name[1:].split("g"))
            stage, group = self.stages[s], self.stages[s].groups[g]
            counts = np.full((BANDS, stage.codebook_size), 0.5)
            for batch in batches:
                bands = _bands(batch, group.scale).numpy()
                for phase in group.phases:
                    plane = _plane(batch.indices[:, s], group.scale, phase)
                    np.add.at(counts, (np.broadcast_to(bands[..., None], plane.shape), plane), 1)
            shares = counts / counts.sum(1, keepdims=True)
            by_high = shares.reshape(BANDS, stage.high_size, -1)
            logits = [np.log(by_high.sum(2))]
            if stage.low_bits:
                logits.append(np.log(by_high / by_high.sum(2, keepdims=True)).reshape(BANDS, -1))
            parameter.data = torch.from_numpy(np.concatenate(logits, 1)).float()

    def forward(self, batch: GridBatch) -> Tensor:
        """-ln p of each stage's indices, a mean over positions: [S, B]."""
        indices = torch.from_numpy(batch.indices.astype(np.int64))
        bands = [_bands(batch, scale) for scale in (0, 1)]
        nats = []
        for s, stage in enumerate(self.stages):
            total = indices.new_zeros(len(indices), dtype=torch.float32)
            for g, group in enumerate(stage.groups):
                name, at = pass_name(s, g), bands[group.scale]
                wanted = [_plane(indices[:, s], group.scale, phase) for phase in group.phases]
                if name in self.tables:
                    by_row = F.embedding(at, self.rounding.to_steps(self.tables[name])).permute(0, 2, 1)
                    logits = by_row[..., None].expand(-1, -1, -1, wanted[0].shape[-1]).repeat(1, len(wanted), 1, 1)
                else:
                    known = [_plane(indices[:, s], group.scale, p) for p in _known_phases(stage, g)]
                    earlier = [[_plane(indices[:, t], group.scale, p) for p in PHASES] for t in range(s)]
                    logits = self.networks[name](known, earlier, at)
                for part, plane in zip(logits.chunk(len(wanted), dim=1), wanted, strict=True):
                    total = total + _nats(part, plane, stage).sum((1, 2))
            nats.append(total / indices[0, s].numel())
        return torch.stack(nats)

    def export(self) -> ContextPrior:
        """The integer prior. Raises BundleError when it cannot be proved exact or was trained in floats."""
        step = 1 << self.config.activation_bits
        stages = []
        for s, stage in enumerate(self.stages):
            groups = []
            for g, group in enumerate(stage.groups):
                name = pass_name(s, g)
                if name in self.tables:
                    logits = torch.floor(self.tables[name].detach() * step + 0.5).int().tolist()
                    group = group.model_copy(update={"table": logits})
                groups.append(group)
            stages.append(stage.model_copy(update={"groups": groups}))
        passes = {name: network.integer_weights() for name, network in self.networks.items()}  # type: ignore[operator]
        return ContextPrior(stages, softmax_weights(1 / step), prior_onnx(passes))


def _known_phases(stage: Stage, g: int) -> list[tuple[int, int]]:
    """Like the codec: phases of the group's scale that come before it."""
    groups = stage.groups
    before = [(0, 0)] if groups[g].scale == 0 and groups[0].scale == 1 else []
    for group in groups[:g]:
        if group.scale == groups[g].scale:
            before += [(a, b) for a, b in group.phases]
    return before


def _plane(grids: Any, scale: int, phase: Sequence[int]) -> Any:
    step, half = 2 << scale, 1 << scale
    return grids[:, phase[0] * half :: step, phase[1] * half :: step]


def _bands(batch: GridBatch, scale: int) -> Tensor:
    """Band of each row of cells of each sample's window: int64 [B, rows]."""
    step = 2 << scale
    rows = batch.top[:, None] // step + np.arange(batch.indices.shape[2] // step)
    of_frame = -(-batch.frame_height[:, None] // step)
    return torch.from_numpy(rows * BANDS // of_frame)
