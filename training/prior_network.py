"""The networks of the integer latent prior.

One small network for each pass of the coding schedule (`ndsc.codec.context`) predicts a group of labels from
those already known. Weights, activations, embeddings and logits are rounded in every forward pass of training
(straight-through gradients), so what is trained is bit for bit what is exported: float32 sums of integers that
`ndsc.codec.exact` proves to be exact. Every scale is a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndsc.codec.context import ContextPrior, pass_name, softmax_weights
from ndsc.codec.schedule import BANDS, Group, Stage
from training.config import JsonConfig
from training.indices import GridBatch
from training.integer import Convolution, Rounding, integers
from training.prior_graph import PassWeights, Target, prior_onnx


@dataclass(frozen=True)
class PriorConfig(JsonConfig):
    """One latent prior and its training run."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    channels: tuple[int, ...] = (64, 64, 64)
    """Of each stage's networks."""
    embedding: int = 16
    """Length of an index's embedding."""
    blocks: tuple[int, ...] = (1, 1, 1)
    """Residual blocks of two 1×1 convolutions after the first one, for each stage."""
    activation_bits: int = 4
    """Activations and logits are multiples of 2**-4, up to 255 of them."""
    weight_bits: int = 7
    """Weights are multiples of 2**-7, up to 127 of them."""
    quantize: bool = True
    """False trains the same prior in floats, to tell what exactness costs; it cannot be exported."""
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 2.5e-2
    """High, and in floats too: one pass had 4.65 bits an index after 250 steps at 2e-3, and 4.16 at this rate."""
    warm_up_steps: int = 50
    protocol_share: float = 2 / 3
    """Share of samples that are views of the `kitti128` kind; the others are windows of whole frames."""
    validation_samples: int = 160
    """Of each kind."""
    validate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if min(len(self.channels), len(self.blocks)) < len(self.codebook_sizes):
            raise ValueError(
                f"channels and blocks must say something of each of {len(self.codebook_sizes)} stages"
            )


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


def _rounding(config: PriorConfig) -> Rounding:
    return Rounding(config.activation_bits, config.weight_bits, config.quantize)


class _Block(nn.Module):
    def __init__(self, rounding: Rounding, channels: int) -> None:
        super().__init__()
        self.rounding = rounding
        self.inner = Convolution(rounding, channels, channels, 1)
        self.outer = Convolution(rounding, channels, channels, 1, gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.rounding.activation(self.rounding.to_steps(self.inner(x)))
        return self.rounding.activation(x + self.rounding.to_steps(self.outer(branch)))


class StageNetwork(nn.Module):
    """The networks of one stage's passes, which share most of their weights.

    Each position to predict sees the `known` indices of its own stage within ±3 positions (of the group's scale)
    and those of all earlier stages within ±2; then 1×1 convolutions follow. What an index at some offset tells is
    learned once, whichever pass asks: with weights for each pass alone, training takes several times the samples.
    """

    def __init__(self, config: PriorConfig, stage: int, groups: Sequence[Group], logits: int) -> None:
        super().__init__()
        self.rounding = _rounding(config)
        sizes, embedding, channels = config.codebook_sizes, config.embedding, config.channels[stage]
        self.own = nn.Parameter(torch.randn(sizes[stage], embedding) * 0.5)
        self.earlier = nn.ParameterList(
            nn.Parameter(torch.randn(sizes[t], embedding) * 0.5) for t in range(stage)
        )
        scales = sorted({group.scale for group in groups})
        self.around = nn.ParameterDict(
            {
                str(scale): torch.randn(channels, embedding, 7, 7) / math.sqrt(embedding * 27)
                for scale in scales
            }
        )
        self.before = nn.Parameter(torch.randn(channels, embedding, 5, 5) / math.sqrt(embedding * 25))
        self.band = nn.ParameterDict(
            {
                f"{g}_{a}{b}": torch.zeros(BANDS, channels)
                for g, group in enumerate(groups)
                for a, b in group.order
            }
        )
        self.blocks = nn.ModuleList(_Block(self.rounding, channels) for _ in range(config.blocks[stage]))
        self.head = Convolution(self.rounding, channels, logits, 1)

    def _around(self, scale: int, target: tuple[int, int], known: Sequence[tuple[int, int]]) -> Tensor:
        """The ±3 kernel as one 3×3 kernel over cells for each known phase: [C, planes · E, 3, 3]."""
        kernel = self.around[str(scale)]
        cells = np.arange(-1, 2) * 2 + 3
        parts = []
        for phase in known:
            rows = torch.from_numpy(cells + phase[0] - target[0])
            columns = torch.from_numpy(cells + phase[1] - target[1])
            parts.append(kernel[:, :, rows][:, :, :, columns])
        return torch.cat(parts, dim=1)

    def forward(
        self,
        group: int,
        scale: int,
        target: tuple[int, int],
        known: dict[tuple[int, int], Tensor],
        earlier: Sequence[Tensor],
        bands: Tensor,
    ) -> Tensor:
        """Logits [B, L, rows, columns] of one phase.

        `known` are phases int64 [B, rows, columns] of this stage, `earlier` whole grids [B, 2·rows, 2·columns] of
        the stages before, `bands` [B, rows].
        """
        rounding = self.rounding
        x = F.embedding(bands, rounding.sums(self.band[f"{group}_{target[0]}{target[1]}"])).permute(0, 2, 1)[
            ..., None
        ]
        if known:
            table = rounding.embeddings(self.own)
            planes = torch.cat([F.embedding(plane, table) for plane in known.values()], dim=-1).permute(
                0, 3, 1, 2
            )
            x = x + F.conv2d(planes, rounding.weights(self._around(scale, target, list(known))), padding=1)
        if earlier:
            tables = [rounding.embeddings(table) for table in self.earlier]
            together = torch.stack([F.embedding(z, t) for z, t in zip(earlier, tables, strict=True)]).sum(0)
            pads = [2 - target[1], 1 + target[1], 2 - target[0], 1 + target[0]]
            padded = F.pad(together.permute(0, 3, 1, 2), pads)
            x = x + F.conv2d(padded, rounding.weights(self.before), stride=2)
        x = rounding.activation(rounding.to_steps(x))
        for block in self.blocks:
            x = block(x)
        return rounding.to_steps(self.head(x))  # the codec rounds, for the digits that it needs

    def integer_weights(self, g: int, group: Group, known: Sequence[tuple[int, int]]) -> PassWeights:
        """What `prior.onnx` holds of one pass."""
        rounding = self.rounding

        def table(parameter: Tensor) -> npt.NDArray[np.float32]:
            rows = integers(rounding.embeddings(parameter), rounding.activation_bits)
            # One more row, of zeros, for positions outside the grid: what a convolution pads with.
            return np.concatenate([rows, np.zeros_like(rows[:1])])

        targets = []
        for phase in group.order:
            around = self._around(group.scale, phase, known) if known else None
            band = self.band[f"{g}_{phase[0]}{phase[1]}"]
            targets.append(
                Target(
                    phase=phase,
                    around=None
                    if around is None
                    else integers(rounding.weights(around), rounding.weight_bits),
                    band=integers(rounding.sums(band), rounding.weight_bits + rounding.activation_bits),
                )
            )
        return PassWeights(
            own=table(self.own) if known else None,
            earlier=[table(parameter) for parameter in self.earlier],
            before=integers(rounding.weights(self.before), rounding.weight_bits)
            if len(self.earlier)
            else None,
            targets=targets,
            blocks=[(b.inner.layer(), b.outer.layer()) for b in self.blocks if isinstance(b, _Block)],
            head=self.head.layer(),
            weight_bits=rounding.weight_bits,
        )


def _nats(logits: Tensor, indices: Tensor, stage: Stage) -> Tensor:
    """-ln p of indices int64 [B, h, w] under logits [B, L, h, w]: high digit, then low digit given the high."""
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
        networks, tables = [], {}
        for s, (size, groups) in enumerate(
            zip(config.codebook_sizes, schedule(config.codebook_sizes), strict=True)
        ):
            bits = low_bits(size)
            blank = [[0] * ((size >> bits) + (size if bits else 0))] * BANDS
            stage = Stage(
                codebook_size=size,
                low_bits=bits,
                order=list(range(size)),
                groups=[
                    Group(scale=scale, phases=phases, table=blank if (s, g) == (0, 0) else None)
                    for g, (scale, phases) in enumerate(groups)
                ],
            )
            self.stages.append(stage)
            networks.append(StageNetwork(config, s, stage.groups, stage.logits))
            for g, group in enumerate(stage.groups):
                if group.table is not None:
                    tables[pass_name(s, g)] = nn.Parameter(torch.zeros(BANDS, stage.logits))
        self.networks, self.tables = nn.ModuleList(networks), nn.ParameterDict(tables)
        self.rounding = _rounding(config)

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

    def forward(self, batch: GridBatch, *, only: Sequence[int] | None = None, parts: bool = False) -> Tensor:
        """-ln p of the indices, a mean over positions: [S, B], or with `parts` over each group: [groups, B].

        `only` these stages, or all.
        """
        indices = torch.from_numpy(batch.indices.astype(np.int64))
        bands = [_bands(batch, scale) for scale in (0, 1)]
        nats, of_groups = [], []
        for s, stage in enumerate(self.stages):
            if only is not None and s not in only:
                continue
            total = indices.new_zeros(len(indices), dtype=torch.float32)
            for g, group in enumerate(stage.groups):
                of_group = []
                for phase in group.order:
                    wanted = _plane(indices[:, s], group.scale, phase)
                    logits = self._logits(indices, bands[group.scale], s, g, phase)
                    of_group.append(_nats(logits, wanted, stage))
                    total = total + of_group[-1].sum((1, 2))
                of_groups.append(torch.stack(of_group).mean((0, 2, 3)))
            nats.append(total / indices[0, s].numel())
        return torch.stack(of_groups if parts else nats)

    def _logits(self, indices: Tensor, bands: Tensor, s: int, g: int, phase: tuple[int, int]) -> Tensor:
        group = self.stages[s].groups[g]
        name = pass_name(s, g)
        if name in self.tables:
            by_row = F.embedding(bands, self.rounding.to_steps(self.tables[name])).permute(0, 2, 1)
            return by_row[..., None].expand(-1, -1, -1, indices.shape[3] // (2 << group.scale))
        known = {p: _plane(indices[:, s], group.scale, p) for p in self.stages[s].known(g)}
        step = 1 << group.scale
        earlier = [indices[:, t, ::step, ::step] for t in range(s)]
        network = self.networks[s]
        logits: Tensor = network(g, group.scale, phase, known, earlier, bands)
        return logits

    def export(self, order: Sequence[Sequence[int]]) -> ContextPrior:
        """The integer prior of labels made by `order`.

        Raises BundleError when it cannot be proved exact or was trained in floats.
        """
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
            stages.append(stage.model_copy(update={"groups": groups, "order": list(order[s])}))
        passes = {}
        for s, (stage, network) in enumerate(zip(self.stages, self.networks, strict=True)):
            assert isinstance(network, StageNetwork)
            for g, group in enumerate(stage.groups):
                if group.table is None:
                    passes[pass_name(s, g)] = network.integer_weights(g, group, stage.known(g))
        return ContextPrior(stages, softmax_weights(1 / step), self.config.weight_bits, prior_onnx(passes))


def _plane(grids: Any, scale: int, phase: Sequence[int]) -> Any:
    step, half = 2 << scale, 1 << scale
    return grids[:, phase[0] * half :: step, phase[1] * half :: step]


def _bands(batch: GridBatch, scale: int) -> Tensor:
    """Band of each row of cells of each sample's window: int64 [B, rows]."""
    step = 2 << scale
    rows = batch.top[:, None] // step + np.arange(batch.indices.shape[2] // step)
    of_frame = -(-batch.frame_height[:, None] // step)
    return torch.from_numpy(rows * BANDS // of_frame)
