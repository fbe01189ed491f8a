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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ndsc.codec.context import ContextPrior, pass_name, softmax_weights
from ndsc.codec.errors import BundleError, NdscError
from ndsc.codec.schedule import BANDS, Group, Stage
from training.config import JsonConfig
from training.indices import GridBatch, GridSampler, IndexGrids
from training.prior_graph import Layer, PassWeights, Target, prior_onnx

WINDOW: Final = (16, 32)
"""Rows and columns of a training sample: the grid of a 128×256 frame."""


@dataclass(frozen=True)
class PriorConfig(JsonConfig):
    """One latent prior and its training run."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    channels: tuple[int, ...] = (96, 64, 64)
    """Of each stage's networks."""
    embedding: int = 16
    """Length of an index's embedding."""
    blocks: tuple[int, ...] = (2, 1, 1)
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
    """High, since steps of 2**-7 are coarse: at 250 steps, 2e-3 gave 4.65 bits where this gave 4.16."""
    warm_up_steps: int = 50
    protocol_share: float = 2 / 3
    """Share of samples that are views of the `kitti128` kind; the others are windows of whole frames."""
    validation_samples: int = 160
    """Of each kind."""
    validate_every: int = 100
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
        return (
            _rounded(x, self.config.weight_bits + self.config.activation_bits) if self.config.quantize else x
        )

    def embeddings(self, x: Tensor) -> Tensor:
        if not self.config.quantize:
            return x
        limit = 127 / (1 << self.config.activation_bits)
        return _rounded(x, self.config.activation_bits).clamp(-limit, limit)

    def to_steps(self, x: Tensor) -> Tensor:
        return _rounded(x, self.config.activation_bits) if self.config.quantize else x

    def activation(self, x: Tensor) -> Tensor:
        return (
            x.clamp(0, 255 / (1 << self.config.activation_bits)) if self.config.quantize else x.clamp(min=0)
        )


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


class _Block(nn.Module):
    def __init__(self, rounding: _Rounding, channels: int) -> None:
        super().__init__()
        self.rounding = rounding
        self.inner = _Convolution(rounding, channels, channels, 1)
        self.outer = _Convolution(rounding, channels, channels, 1, gain=0.3)

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
        self.rounding = _Rounding(config)
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
        self.head = _Convolution(self.rounding, channels, logits, 1)

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
        config, rounding = self.rounding.config, self.rounding

        def table(parameter: Tensor) -> npt.NDArray[np.float32]:
            rows = _integers(rounding.embeddings(parameter), config.activation_bits)
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
                    else _integers(rounding.weights(around), config.weight_bits),
                    band=_integers(rounding.sums(band), config.weight_bits + config.activation_bits),
                )
            )
        return PassWeights(
            own=table(self.own) if known else None,
            earlier=[table(parameter) for parameter in self.earlier],
            before=_integers(rounding.weights(self.before), config.weight_bits)
            if len(self.earlier)
            else None,
            targets=targets,
            blocks=[(b.inner.layer(), b.outer.layer()) for b in self.blocks if isinstance(b, _Block)],
            head=self.head.layer(),
            weight_bits=config.weight_bits,
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


def _split_in_order(features: npt.NDArray[np.float64]) -> list[int]:
    """Rows of [K, F], like ones together: halves along the first principal axis, and so on in each half."""
    order: list[int] = []

    def split(rows: npt.NDArray[np.int64]) -> None:
        if len(rows) == 1:
            order.append(int(rows[0]))
            return
        centred = features[rows] - features[rows].mean(0)
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
        by_axis = rows[np.argsort(centred @ axis, kind="stable")]
        half = len(rows) // 2
        split(by_axis[:half])
        split(by_axis[half:])

    split(np.arange(len(features)))
    return order


def label_order(grids: Sequence[npt.NDArray[np.uint16]], codebook_sizes: Sequence[int]) -> list[list[int]]:
    """The indices of each stage in the order of their labels, so that like ones share the high digit.

    Two indices are alike when they have the same neighbours: the first stage's index at the four positions around
    and, for later stages, at the position itself.
    """
    orders = []
    for s, size in enumerate(codebook_sizes):
        counts = np.zeros((size, codebook_sizes[0]))
        for grid in grids:
            first, own = grid[0].astype(np.int64), grid[s].astype(np.int64)
            near = [(own[:, 1:], first[:, :-1]), (own[:, :-1], first[:, 1:])]
            near += [(own[1:], first[:-1]), (own[:-1], first[1:])]
            if s:
                near.append((own, first))
            for centre, beside in near:
                counts += np.bincount(
                    (centre * codebook_sizes[0] + beside).ravel(), minlength=counts.size
                ).reshape(counts.shape)
        # Square roots of shares: Euclidean distance then is the Hellinger distance.
        orders.append(_split_in_order(np.sqrt((counts + 0.1) / (counts + 0.1).sum(1, keepdims=True))))
    return orders


def relabelled(grids: IndexGrids, order: Sequence[Sequence[int]]) -> IndexGrids:
    """The same grids with labels for indices."""
    labels = []
    for of_stage in order:
        label = np.empty(len(of_stage), np.uint16)
        label[np.array(of_stage)] = np.arange(len(of_stage))
        labels.append(label)
    return IndexGrids(
        tuple(np.stack([label[z] for label, z in zip(labels, grid, strict=True)]) for grid in grids.grids)
    )


@torch.no_grad()
def bits_per_index(model: LatentPrior, batch: GridBatch) -> npt.NDArray[np.float64]:
    """-log2 p of each stage's indices and grid: float64 [S, B]."""
    nats: npt.NDArray[np.float64] = model(batch).double().numpy()
    return nats / math.log(2)


def save(model: LatentPrior, order: Sequence[Sequence[int]], directory: Path) -> None:
    """Keep weights, settings and label order."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), directory / "prior.safetensors")
    facts = {"config": model.config.to_dict(), "order": [list(o) for o in order]}
    (directory / "prior.json").write_text(json.dumps(facts) + "\n")


def load(directory: Path) -> tuple[LatentPrior, list[list[int]]]:
    """Read what `save` wrote."""
    facts = json.loads((directory / "prior.json").read_text())
    model = LatentPrior(PriorConfig.from_dict(facts["config"]))
    model.load_state_dict(load_file(directory / "prior.safetensors"))
    return model, facts["order"]


def train(
    grids: IndexGrids,
    held_out: IndexGrids,
    config: PriorConfig,
    output: Path,
    *,
    start: Path | None = None,
    stages: Sequence[int] | None = None,
) -> LatentPrior:
    """Train, and log the curve to log.jsonl.

    Args:
        grids: training grids.
        held_out: validation grids.
        config: settings.
        output: directory for weights, label order and log.
        start: output of an earlier run to go on from, with its labels and the weights that have the same shape;
            new labels and weights without.
        stages: stages to train, the others stay as they are; all without.
    """
    torch.manual_seed(config.seed)
    model = LatentPrior(config)
    if start is not None:
        earlier, order = load(start)
        fitting = {
            name: value
            for name, value in earlier.state_dict().items()
            if value.shape == model.state_dict()[name].shape
        }
        model.load_state_dict(fitting, strict=False)
    else:
        order = label_order(grids.grids[::7], config.codebook_sizes)
    grids, held_out = relabelled(grids, order), relabelled(held_out, order)
    sampler = GridSampler(grids, WINDOW, config.protocol_share)
    validation = {
        "protocol": GridSampler(held_out, WINDOW, 1.0).sample(
            np.random.default_rng(1), config.validation_samples
        ),
        "whole": GridSampler(held_out, WINDOW, 0.0).sample(
            np.random.default_rng(2), config.validation_samples
        ),
    }
    if start is None:
        model.start_tables(
            [sampler.sample(np.random.default_rng((config.seed, 1, i)), 64) for i in range(64)]
        )
    trained = list(range(len(model.stages))) if stages is None else list(stages)
    parameters = [p for s in trained for p in model.networks[s].parameters()]
    if 0 in trained:
        parameters += list(model.tables.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=1e-4)
    output.mkdir(parents=True, exist_ok=True)
    losses: list[npt.NDArray[np.float32]] = []
    started = time.monotonic()
    with (output / "log.jsonl").open("w") as log:
        for step in range(config.steps):
            warm = min(1.0, (step + 1) / config.warm_up_steps)
            for settings in optimizer.param_groups:
                settings["lr"] = (
                    config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
                )
            batch = sampler.sample(np.random.default_rng((config.seed, 0, step)), config.batch_size)
            nats = model(batch, only=trained)
            optimizer.zero_grad(set_to_none=True)
            nats.mean(1).sum().backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(nats.detach().mean(1).numpy())
            if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                line: dict[str, Any] = {"step": step + 1, "seconds": round(time.monotonic() - started, 1)}
                line["train_bits_per_index"] = (np.mean(losses, 0) / math.log(2)).round(4).tolist()
                for name, held in validation.items():
                    line[f"{name}_bits_per_index"] = bits_per_index(model, held).mean(1).round(4).tolist()
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(line, flush=True)
                losses = []
                save(model, order, output)
    return model


def main(
    indices: Annotated[Path, typer.Argument(help="Training grids of training.indices.")],
    validation: Annotated[Path, typer.Option(help="Validation grids of training.indices.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for weights and log.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = PriorConfig.steps,
    floats: Annotated[
        bool, typer.Option("--floats", help="Train in floats, to tell what integers cost.")
    ] = False,
    start: Annotated[Path | None, typer.Option(help="Go on from an earlier run's output.")] = None,
    stage: Annotated[list[int] | None, typer.Option(help="Stages to train; all without.")] = None,
    learning_rate: Annotated[float, typer.Option(help="The largest.")] = PriorConfig.learning_rate,
    batch_size: Annotated[int, typer.Option(help="Samples a step.")] = PriorConfig.batch_size,
    seed: Annotated[int, typer.Option(help="Of samples and weights.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes one for each core.")] = 0,
) -> None:
    """Train the latent prior of a codec on its indices."""
    if threads:
        torch.set_num_threads(threads)
    grids, held_out = IndexGrids.load(indices), IndexGrids.load(validation)
    sizes = [1 + max(int(grid[s].max()) for grid in grids.grids) for s in range(len(grids.grids[0]))]
    config = PriorConfig(
        codebook_sizes=tuple(1 << max(1, (k - 1).bit_length()) for k in sizes),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        quantize=not floats,
        seed=seed,
    )
    train(grids, held_out, config, output, start=start, stages=stage)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (OSError, ValueError, NdscError) as error:
        sys.exit(f"error: {error}")
