"""A probability model of a codec's indices given y: the decoder's share of Slepian-Wolf coding.

The codec and its rate model are frozen. Beside each prediction of the rate model stands a correction made of the
indices already known and of y's features, moved along rows to where they belong; before training it is zero, so
that H(Z|Y) starts at H(Z) and falls by what y tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ndsc.codec.prior import FREQUENCY_BITS
from ndsc.codec.scalar_prior import GROUPS
from training.integer import bounded
from training.layers import Pointwise
from training.model import RowAttention, blocks, start_layers
from training.scalar import SCALES, Prediction, phase_slices, table_bits
from training.scalar_codec import ScalarCodec


@dataclass(frozen=True)
class Cost:
    """Of each index, [B, C, h, w]."""

    own: Tensor
    """Bits under the codec's own rate model: H(Z)."""
    given: Tensor
    """Bits under the model that sees y."""
    entropy: Tensor
    """What that model expects `given` to be: equal on average where its probabilities are right."""
    dispersion: Tensor
    """Variance of -log2 p under it."""


class ConditionalRate(nn.Module):
    """Bits of the indices of a frozen codec under a model that sees y."""

    def __init__(self, codec: ScalarCodec, width: int) -> None:
        super().__init__()
        self.codec = codec.eval().requires_grad_(requires_grad=False)
        config = codec.config
        self.stem = nn.Conv2d(config.latent_dimension + len(GROUPS), width, 3, padding=1)
        self.level = nn.Embedding(config.levels, width)
        self.before = blocks(2, width)
        self.side = Pointwise(config.channels, width)
        self.attention = RowAttention(width, heads=4, reach=16)
        self.mix = Pointwise(3 * width, width)
        self.after = blocks(3, width)
        self.head = Pointwise(width, 2 * config.latent_dimension)
        for part in (self.stem, self.before, self.side, self.attention, self.mix, self.after):
            start_layers(part)
        for start in (self.head.weight, self.head.bias):
            nn.init.zeros_(start)

    def indices(self, x: Tensor, level: Tensor) -> Tensor:
        """What the codec makes of frames [B, 3, H, W]: whole numbers [B, C, h, w]."""
        with torch.no_grad():
            numbers: Tensor = self.codec.quantizer(self.codec.encoder(x), level).indices
        return numbers

    def forward(self, numbers: Tensor, y: Tensor, level: Tensor, present: Tensor) -> Cost:
        """What each index costs.

        Args:
            numbers: indices [B, C, h, w].
            y: side information [B, 3, H, W]; where `present` [B] is 0 nothing of it is seen.
            level: int64 [B].
        """
        with torch.no_grad():
            features = self.codec.side_network(y).eighth
        side = self.side(features) * present[:, None, None, None]
        cost = Cost(*(torch.empty_like(numbers) for _ in range(4)))
        corrections: dict[str, tuple[Tensor, Tensor]] = {}
        for of in self.codec.rate_model.predictions(numbers, level):
            if of.group.name not in corrections:
                corrections[of.group.name] = self._corrections(numbers, side, level, of.group.name)
            mean, scale = (part[of.at] for part in corrections[of.group.name])
            self._pay(cost, numbers[of.at], of, mean, scale)
        return cost

    def _pay(self, cost: Cost, values: Tensor, of: Prediction, mean: Tensor, scale: Tensor) -> None:
        bound = self.codec.rate_model.bound
        mean = bounded(of.mean + mean, -bound, bound)
        scale = bounded(of.scale + scale, 0, SCALES - 1)
        cost.given[of.at] = table_bits(values, mean, scale, bound)
        cost.own[of.at] = table_bits(values, of.mean, of.scale, bound)
        with torch.no_grad():
            every = torch.arange(-bound, bound + 1, device=values.device).view(-1, 1, 1, 1, 1)
            bits = table_bits(every, mean[None], scale[None], bound)
            # Without the least frequency that a table gives to what never comes: in thousands of indices that are
            # always 0 it would be most of what is expected of them.
            mass = (torch.exp2(-bits) - 2.0**-FREQUENCY_BITS).clamp_min(0)
            mass /= mass.sum(0)
            entropy = (mass * bits).sum(0)
            cost.entropy[of.at] = entropy
            cost.dispersion[of.at] = (mass * (bits - entropy).square()).sum(0)

    def _corrections(self, numbers: Tensor, side: Tensor, level: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Of mean and scale, [B, C, h, w] each, from the groups before `name`."""
        order = [group.name for group in GROUPS]
        known = torch.zeros_like(numbers[:, :1])
        for group in GROUPS[: order.index(name)]:
            for phase in range(len(group.phases)):
                known[phase_slices(group, phase)] = 1
        which = torch.zeros(1, len(GROUPS), 1, 1, device=numbers.device)
        which[:, order.index(name)] = 1
        batch, _, height, width = numbers.shape
        seen = torch.cat([numbers * known / 4, which.expand(batch, -1, height, width)], 1)
        x = self.before(self.stem(seen) + self.level(level)[:, :, None, None])
        x = x + self.mix(torch.cat([x, side, self.attention(x, side)], 1))
        mean, scale = self.head(self.after(x)).chunk(2, 1)
        return mean, 4 * scale
