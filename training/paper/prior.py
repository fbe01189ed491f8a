"""The paper's latent prior: a causal transformer over the raster of indices, and range coding under it.

    p(z) = Π p(z_t | z_1 … z_{t-1})

with a start token, learned embeddings and fixed sinusoids (paper, "Latent prior": dimension 128, 4 heads, 4
blocks, feed-forward 512, dropout 0.1). The rate of an image is counted there as ⌈−Σ log2 p⌉ + 1 bits; `encode`
gives the real bytes instead. A decoder needs one step for each index, and floats differ between machines, so those
bytes decode only where they were made: enough to measure, never to ship.

A grid larger than the network's is cut into windows that are coded independently, side by side. With a network of
the whole grid, as in the paper, there is one window.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ndsc.codec import entropy
from training.checkpoint import CheckpointError
from training.config import JsonConfig

Grids = npt.NDArray[np.uint16]
"""Indices of N images: [N, S, h, w], S residual stages (the paper has one)."""

_FREQUENCY_TOTAL = 1 << 20
"""Probabilities become integers of about this sum: 256 symbols then lose 1e-4 bits an index."""


@dataclass(frozen=True)
class TransformerConfig(JsonConfig):
    """Size of the network; the defaults are the paper's."""

    codebook_size: int = 256
    grid: tuple[int, int] = (16, 32)
    """Rows and columns of one window."""
    stage: int = 0
    """The residual stage whose indices it predicts. The paper has one stage; for a later one the input at each
    position also holds the earlier stages' indices *there*, and by the chain rule the rates add up."""
    dimension: int = 128
    heads: int = 4
    blocks: int = 4
    feed_forward: int = 512
    dropout: float = 0.1


@dataclass(frozen=True)
class PriorFitConfig(JsonConfig):
    """One training run of a prior: Adam, warm-up, half a cosine. The defaults are the paper's at 1576 images."""

    steps: int = 4925
    batch_size: int = 32
    learning_rate: float = 3e-4
    warm_up_steps: int = 2000
    validate_every: int = 200
    seed: int = 0


class _Past:
    """Keys and values of the positions before, so that a step costs one position."""

    def __init__(self, config: TransformerConfig, batch: int, device: torch.device) -> None:
        length = config.grid[0] * config.grid[1]
        shape = (batch, config.heads, length, config.dimension // config.heads)
        self.key, self.value = torch.empty(shape, device=device), torch.empty(shape, device=device)
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self.key[:, :, self.length] = key[:, :, 0]
        self.value[:, :, self.length] = value[:, :, 0]
        self.length += 1
        return self.key[:, :, : self.length], self.value[:, :, : self.length]


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.norm_attention = nn.LayerNorm(config.dimension)
        self.norm_forward = nn.LayerNorm(config.dimension)
        self.query_key_value = nn.Linear(config.dimension, 3 * config.dimension)
        self.project = nn.Linear(config.dimension, config.dimension)
        self.forward_layers = nn.Sequential(
            nn.Linear(config.dimension, config.feed_forward),
            nn.GELU(),
            nn.Linear(config.feed_forward, config.dimension),
        )

    def forward(self, x: Tensor, past: _Past | None = None) -> Tensor:
        batch, length, dimension = x.shape
        split = self.query_key_value(self.norm_attention(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = past.append(key, value)
        # Dropout acts on what attention gives, not inside it: that would cost three quarters of the time.
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        joined = attended.transpose(1, 2).reshape(batch, length, dimension)
        x = x + F.dropout(self.project(joined), self.dropout, self.training)
        return x + F.dropout(self.forward_layers(self.norm_forward(x)), self.dropout, self.training)


def _sinusoids(length: int, dimension: int) -> Tensor:
    rates = torch.exp(torch.arange(0, dimension, 2) * (-math.log(10_000.0) / dimension))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(length, dimension)


class CausalTransformer(nn.Module):
    """p(z_t | z_1 … z_{t-1}) over the raster of one stage's indices in one window."""

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.start = nn.Parameter(torch.zeros(config.dimension))
        # The last one embeds this stage's own index before; the others the earlier stages' at this position.
        self.embeddings = nn.ModuleList(
            nn.Embedding(config.codebook_size, config.dimension) for _ in range(config.stage + 1)
        )
        length = config.grid[0] * config.grid[1]
        self.register_buffer("positions", _sinusoids(length, config.dimension), persistent=False)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dimension)
        self.head = nn.Linear(config.dimension, config.codebook_size)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.start.device

    def forward(self, indices: Tensor) -> Tensor:
        """Indices int64 [B, S, h, w] of the window's size → nats of each of this stage's indices [B, h·w]."""
        flat = indices[:, : self.config.stage + 1].flatten(2)
        own = self.embeddings[-1](flat[:, -1, :-1])
        x = torch.cat([self.start.expand(len(own), 1, -1), own], dim=1) + self.positions
        for stage in range(self.config.stage):
            x = x + self.embeddings[stage](flat[:, stage])
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        nats = F.cross_entropy(logits.flatten(0, 1), flat[:, -1].flatten(), reduction="none")
        return nats.view(len(flat), -1)

    def step(self, previous: Tensor | None, past: list[_Past]) -> Tensor:
        """Logits [B, K] of the next index, from the one before it (int64 [B], None at the first) and `past`."""
        own = None if previous is None else self.embeddings[-1](previous)
        x = self.start.expand(len(past[0].key), -1) if own is None else own
        x = (x + self.positions[past[0].length])[:, None]
        for block, before in zip(self.blocks, past, strict=True):
            x = block(x, before)
        logits: Tensor = self.head(self.norm(x))[:, 0]
        return logits


@torch.no_grad()
def bits_per_index(model: CausalTransformer, grids: Grids) -> npt.NDArray[np.float64]:
    """Mean −log2 p of each window's indices: [N, S, h, w] of the network's size → float64 [N]."""
    model.eval()
    parts = [
        model(torch.from_numpy(grids[i : i + 16].astype(np.int64)).to(model.device)).mean(1).cpu()
        for i in range(0, len(grids), 16)
    ]
    bits: npt.NDArray[np.float64] = torch.cat(parts).double().numpy() / math.log(2)
    return bits


def image_bits(model: CausalTransformer, grids: Grids) -> npt.NDArray[np.float64]:
    """−Σ log2 p of each image, over all its windows: [N, S, h, w] → float64 [N]."""
    cut = windows(grids, model.config.grid)
    bits: npt.NDArray[np.float64] = bits_per_index(model, cut).reshape(len(grids), -1).sum(1)
    return bits * math.prod(model.config.grid)


def windows(grids: Grids, size: tuple[int, int]) -> Grids:
    """[N, S, h, w] → [N · windows, S, *size], the windows of an image one after the other, rows first.

    Raises ValueError when `size` does not divide the grid.
    """
    (height, width), (rows, columns) = grids.shape[2:], size
    if height % rows or width % columns:
        raise ValueError(f"a grid of {height}x{width} does not divide into windows of {rows}x{columns}")
    count, stages = grids.shape[:2]
    cut = grids.reshape(count, stages, height // rows, rows, width // columns, columns)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, stages, rows, columns)


def encode(model: CausalTransformer, grids: Grids) -> list[bytes]:
    """Range-code images of one stage, [N, 1, h, w], each to its own bytes.

    The same N images must be decoded together: a batch of another size may round differently.
    """
    coding = _Coding(model, len(grids), grids.shape[2:])
    sent = windows(grids, model.config.grid).reshape(coding.images, coding.windows, -1).astype(np.int32)
    tables = []
    for t in range(coding.length):
        tables.append(coding.next_tables())
        coding.previous = sent[:, :, t]
    # Step by step, and within a step window by window: the order in which a decoder can ask.
    return [
        entropy.encode([indices.T], [table.reshape(-1, table.shape[-1])])
        for indices, table in zip(sent, np.stack(tables, 1), strict=True)
    ]


def decode(model: CausalTransformer, data: Sequence[bytes], height: int, width: int) -> Grids:
    """The inverse of `encode`: uint16 [N, 1, height, width]."""
    coding = _Coding(model, len(data), (height, width))
    readers = [entropy.decoder(coded) for coded in data]
    steps = []
    for _ in range(coding.length):
        tables = coding.next_tables()
        indices = [
            reader.decode(coding.windows, table) for reader, table in zip(readers, tables, strict=True)
        ]
        steps.append(np.stack(indices))
        coding.previous = steps[-1]
    rows, columns = model.config.grid
    cut = np.stack(steps, 2).reshape(len(data), height // rows, width // columns, rows, columns)
    return cut.transpose(0, 1, 3, 2, 4).reshape(-1, 1, height, width).astype(np.uint16)


class _Coding:
    """What encoder and decoder do alike: one pass over the positions of all windows of all images."""

    def __init__(self, model: CausalTransformer, images: int, grid: tuple[int, ...]) -> None:
        if model.config.stage:
            raise ValueError("only a prior of the first stage codes; those of later ones give ideal rates")
        rows, columns = model.config.grid
        self.model = model.eval()
        self.images, self.windows = images, (grid[0] // rows) * (grid[1] // columns)
        self.length = rows * columns
        self.past = [_Past(model.config, images * self.windows, model.device) for _ in model.blocks]
        self.previous: npt.NDArray[np.int32] | None = None
        """Indices [images, windows] of the position before."""

    @torch.no_grad()
    def next_tables(self) -> npt.NDArray[np.uint32]:
        """Frequencies [images, windows, K] of the next position's indices."""
        before = None
        if self.previous is not None:
            before = torch.from_numpy(self.previous.astype(np.int64).ravel()).to(self.model.device)
        probabilities = self.model.step(before, self.past).softmax(1).double().cpu().numpy()
        frequencies: npt.NDArray[np.uint32] = (1 + np.floor(_FREQUENCY_TOTAL * probabilities)).astype(
            np.uint32
        )
        return frequencies.reshape(self.images, self.windows, -1)


def save(model: CausalTransformer, directory: Path) -> None:
    """Keep weights and settings."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / "transformer.safetensors")
    (directory / "transformer.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")


def load(directory: Path) -> CausalTransformer:
    """Read what `save` wrote. Raises CheckpointError."""
    try:
        config = TransformerConfig.from_dict(json.loads((directory / "transformer.json").read_text()))
        model = CausalTransformer(config)
        model.load_state_dict(load_file(directory / "transformer.safetensors"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: not a latent prior ({error})") from error
    return model.eval()


def fit_prior(
    model: CausalTransformer,
    sample: Callable[[int], Grids],
    validation: dict[str, Grids],
    config: PriorFitConfig,
    output: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CausalTransformer:
    """Train, keep the weights that are best on the mean of `validation`, and log the curve to log.jsonl.

    Args:
        model: on the device it is to be trained on.
        sample: step → indices [B, S, h, w] of the network's size.
        validation: held-out windows by name.
        config: the dials.
        output: folder of the weights and the log.
        progress: called as progress(steps done, steps).
    """
    torch.manual_seed(config.seed)  # of the dropout
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    output.mkdir(parents=True, exist_ok=True)
    best, losses, started = math.inf, [], perf_counter()
    with (output / "log.jsonl").open("w") as log:
        for step in range(config.steps):
            done = max(0.0, (step - config.warm_up_steps) / max(1, config.steps - config.warm_up_steps))
            warm = min(1.0, (step + 1) / max(1, config.warm_up_steps))
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))
            model.train()
            batch = torch.from_numpy(sample(step).astype(np.int64)).to(model.device)
            loss = model(batch).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
            progress(step + 1, config.steps)
            if (step + 1) % config.validate_every and step + 1 < config.steps:
                continue
            bits = {name: float(bits_per_index(model, grids).mean()) for name, grids in validation.items()}
            mean = sum(bits.values()) / len(bits)
            if mean < best:
                best = mean
                save(model, output)
            line = {
                "step": step + 1,
                "seconds": round(perf_counter() - started, 1),
                "train_bits_per_index": round(float(torch.stack(losses).mean()) / math.log(2), 4),
                **{f"{name}_bits_per_index": round(value, 4) for name, value in bits.items()},
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            losses = []
    return load(output).to(model.device)
