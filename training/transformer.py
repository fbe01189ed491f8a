"""The paper's latent prior, as the yardstick: `python -m training.transformer INDICES --validation … -o DIR`.

A causal transformer over the raster of indices with a start token (paper, "Latent prior": dimension 128, 4 heads,
4 blocks, feed-forward 512, learned embeddings and fixed sinusoids, Adam with warm-up and cosine). Two settings
differ from the paper's, in its favour: no dropout, since our runs end before it could overfit, and a learning rate
of 1e-3 in place of 3e-4, which gets further in fewer steps. It needs one step for each index and its floats differ
between machines, so it is never shipped: its -Σ log2 p is the rate that the integer prior is measured against.

For a residual stage s > 0, which the paper does not have, the input at each position also holds the embeddings of
the earlier stages' indices *at that position*; by the chain rule the rates of the stages then add up.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.indices import WINDOW, GridSampler, IndexGrids, validation_batches


@dataclass(frozen=True)
class TransformerConfig:
    """Size and schedule."""

    stage: int = 0
    """The residual stage whose indices it predicts."""
    codebook_size: int = 256
    dimension: int = 128
    heads: int = 4
    blocks: int = 4
    feed_forward: int = 512
    dropout: float = 0.0
    steps: int = 2400
    batch_size: int = 16
    learning_rate: float = 1e-3
    warm_up_steps: int = 200
    protocol_share: float = 2 / 3
    """Share of samples that are views of the `kitti128` kind; the others are windows of whole frames."""
    validate_every: int = 200
    seed: int = 0


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

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dimension = x.shape
        split = self.query_key_value(self.norm_attention(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        # Dropout acts on what attention gives, not inside it: that would cost three quarters of the time.
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined = attended.transpose(1, 2).reshape(batch, length, dimension)
        x = x + F.dropout(self.project(joined), self.dropout, self.training)
        return x + F.dropout(self.forward_layers(self.norm_forward(x)), self.dropout, self.training)


def _sinusoids(length: int, dimension: int) -> Tensor:
    rates = torch.exp(torch.arange(0, dimension, 2) * (-math.log(10_000.0) / dimension))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(length, dimension)


class CausalTransformer(nn.Module):
    """p(z_t | z_1 … z_{t-1}) over the raster of one stage's indices."""

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.start = nn.Parameter(torch.zeros(config.dimension))
        # The last one embeds this stage's own index before; the others the earlier stages' at this position.
        self.embeddings = nn.ModuleList(
            nn.Embedding(config.codebook_size, config.dimension) for _ in range(config.stage + 1)
        )
        self.register_buffer("positions", _sinusoids(WINDOW[0] * WINDOW[1], config.dimension))
        self.blocks = nn.Sequential(*(_Block(config) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(config.dimension)
        self.head = nn.Linear(config.dimension, config.codebook_size)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, indices: Tensor) -> Tensor:
        """Indices int64 [B, S, 16, 32] → nats of each of this stage's indices, float32 [B, 512]."""
        flat = indices[:, : self.config.stage + 1].flatten(2)
        own = self.embeddings[-1](flat[:, -1, :-1])
        x = torch.cat([self.start.expand(len(own), 1, -1), own], dim=1) + self.positions
        for stage in range(self.config.stage):
            x = x + self.embeddings[stage](flat[:, stage])
        logits = self.head(self.norm(self.blocks(x)))
        nats = F.cross_entropy(logits.flatten(0, 1), flat[:, -1].flatten(), reduction="none")
        return nats.view(len(flat), -1)


@torch.no_grad()
def bits_per_index(model: CausalTransformer, grids: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Mean -log2 p of each grid's indices: grids uint16 [N, S, 16, 32] → float64 [N]."""
    model.eval()
    parts = [
        model(torch.from_numpy(grids[i : i + 16].astype(np.int64))).mean(1) for i in range(0, len(grids), 16)
    ]
    return torch.cat(parts).double().numpy() / math.log(2)


def save(model: CausalTransformer, directory: Path) -> None:
    """Keep weights and settings."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), directory / "transformer.safetensors")
    (directory / "transformer.json").write_text(json.dumps(asdict(model.config), indent=2) + "\n")


def load(directory: Path) -> CausalTransformer:
    """Read what `save` wrote."""
    config = TransformerConfig(**json.loads((directory / "transformer.json").read_text()))
    model = CausalTransformer(config)
    model.load_state_dict(load_file(directory / "transformer.safetensors"))
    return model.eval()


def train(
    grids: IndexGrids, validation: dict[str, npt.NDArray[np.uint16]], config: TransformerConfig, output: Path
) -> CausalTransformer:
    """Train, keep the weights that are best on the mean of `validation`, and log the curve to log.jsonl."""
    torch.manual_seed(config.seed)
    model = CausalTransformer(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    sampler = GridSampler(grids, WINDOW, config.protocol_share)
    output.mkdir(parents=True, exist_ok=True)
    best, losses, started = math.inf, [], time.monotonic()
    with (output / "log.jsonl").open("w") as log:
        for step in range(config.steps):
            progress = max(0.0, (step - config.warm_up_steps) / max(1, config.steps - config.warm_up_steps))
            warm = min(1.0, (step + 1) / config.warm_up_steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
            batch = sampler.sample(np.random.default_rng((config.seed, step)), config.batch_size)
            model.train()
            loss = model(torch.from_numpy(batch.indices.astype(np.int64))).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                bits = {name: float(bits_per_index(model, g).mean()) for name, g in validation.items()}
                mean = sum(bits.values()) / len(bits)
                if mean < best:
                    best = mean
                    save(model, output)
                line = {
                    "step": step + 1,
                    "seconds": round(time.monotonic() - started, 1),
                    "train_bits_per_index": round(float(np.mean(losses)) / math.log(2), 4),
                    **{f"{name}_bits_per_index": round(value, 4) for name, value in bits.items()},
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(line, flush=True)
                losses = []
    return load(output)


def main(
    indices: Annotated[Path, typer.Argument(help="Training grids of training.indices.")],
    validation: Annotated[Path, typer.Option(help="Validation grids of training.indices.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for weights and log.")],
    stage: Annotated[int, typer.Option(help="Residual stage to predict.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = TransformerConfig.steps,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes one for each core.")] = 0,
) -> None:
    """Train the reference prior of one stage."""
    if threads:
        torch.set_num_threads(threads)
    grids, held_out = IndexGrids.load(indices), IndexGrids.load(validation)
    size = 1 + max(int(g[stage].max()) for g in grids.grids)
    config = TransformerConfig(stage=stage, codebook_size=max(2, size), steps=steps)
    held = {name: batch.indices for name, batch in validation_batches(held_out, 160).items()}
    train(grids, held, config, output)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
