"""The layers of other systems, from their public repositories: what they cost, not what they learned.

    Neural DSC   acnagle/neural-dsc, code/arch/vqvae_kitti_stereo_{8x,big2,4x,2x}.py and latent_transformer.py,
                 commit 9863104
    DSIN         ayziksha/DSIN, src/autoencoder_imgcomp.py (b4fcd56), siFull_img.py, siFinder.py, siNet.py,
                 probclass_imgcomp.py (a29d179), src/run_configs/{ae,pc}_run_configs (b4fcd56)
    NDIC         ipc-lab/NDIC, models/distributed_model.py (53a10a1), models/balle2017/{gdn,entropy_model}.py and
                 models/balle2018/hypertransforms.py (733ef50), 192 filters
    NDIC-CAM     ipc-lab/NDIC-CAM, models/distributed_models/attention_*.py (fea430d), 192 filters

Every module takes tensors for one frame of 128x256 and returns tensors of the right shape, from random weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.paper.convolutional import FAMILIES, ConvolutionalVQVAE

HEIGHT: Final = 128
WIDTH: Final = 256


@dataclass(frozen=True)
class Part:
    """One network and what it is given for one frame."""

    module: nn.Module
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class System:
    """One codec with side information at the decoder."""

    name: str
    encoder: Part
    """x → latents."""
    decoder: Part
    """Latents and y → x̂, all that runs on y included."""
    prior: Part
    """What probabilities are made with; for an autoregressive one a single run over all symbols."""
    prior_steps: int
    """Runs that must follow each other to decode one frame."""
    training_only: tuple[nn.Module, ...] = field(default=())
    """Networks that training needs and decoding x does not."""


def _frame(channels: int = 3, scale: int = 1) -> Tensor:
    return torch.zeros(1, channels, HEIGHT // scale, WIDTH // scale)


# Neural DSC


class ReferencePrior(nn.Module):
    """Neural DSC's causal transformer; one run gives the logits of all positions."""

    def __init__(self, bits: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2**bits + 1, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, activation="gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(128, 2**bits)

    def forward(self, indices: Tensor) -> Tensor:
        """int64 [1, n], the start token first → logits [1, n, K]."""
        mask = nn.Transformer.generate_square_subsequent_mask(indices.shape[1], device=indices.device)
        logits: Tensor = self.head(self.blocks(self.embedding(indices), mask=mask, is_causal=True))
        return logits


class _Encoder(nn.Module):
    """The paper's encoder in distributed mode: y is not looked at."""

    def __init__(self, model: ConvolutionalVQVAE) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, source: Tensor) -> Tensor:
        latents: Tensor = self.encoder(source, source)
        return latents


class _Decoder(nn.Module):
    def __init__(self, model: ConvolutionalVQVAE) -> None:
        super().__init__()
        self.side, self.decoder = model.side_networks[0], model.decoder

    def forward(self, latents: Tensor, side: Tensor) -> Tensor:
        frame: Tensor = self.decoder(latents, [self.side(side)])
        return frame


def neural_dsc(family: str, bits: int, prior_blocks: int) -> System:
    """One family of `training.paper`, distributed, with the paper's prior."""
    model = ConvolutionalVQVAE(FAMILIES[family])
    stride = model.config.stride
    positions = HEIGHT * WIDTH // stride**2
    return System(
        f"Neural DSC {family}, {bits} bits",
        Part(_Encoder(model), (_frame(),)),
        Part(_Decoder(model), (_frame(model.config.latent_dimension, stride), _frame())),
        Part(ReferencePrior(bits, prior_blocks), (torch.zeros(1, positions, dtype=torch.int64),)),
        prior_steps=positions,
    )


# DSIN: the autoencoder of Mentzer et al. 2018, a search for matching patches of y, and SI-Net


def _normalised(convolution: nn.Module, channels: int, *, active: bool = True) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(channels), *([nn.ReLU()] if active else [])]


class _Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.layers(x)
        return added


def _dsin_body() -> nn.Module:
    """Five groups of three residual blocks and a last one, 128 channels, every level with a skip."""

    def block() -> nn.Module:
        first, second = (nn.Conv2d(128, 128, 3, padding=1, bias=False) for _ in range(2))
        return _Residual(*_normalised(first, 128), *_normalised(second, 128, active=False))

    return _Residual(*(_Residual(block(), block(), block()) for _ in range(5)), block())


def _dsin_encoder() -> nn.Sequential:
    """[1, 3, H, W] → [1, 33, H/8, W/8]: 32 channels of symbols and their importance map."""
    sizes = ((3, 64), (64, 128))
    down = [m for i, o in sizes for m in _normalised(nn.Conv2d(i, o, 5, 2, 2, bias=False), o)]
    last = _normalised(nn.Conv2d(128, 33, 5, 2, 2, bias=False), 33, active=False)
    return nn.Sequential(*down, _dsin_body(), *last)


def _dsin_decoder() -> nn.Sequential:
    """[1, 32, H/8, W/8] → [1, 3, H, W]."""

    def up(i: int, o: int, size: int) -> nn.Module:
        return nn.ConvTranspose2d(i, o, size, 2, size // 2, output_padding=1, bias=False)

    first = _normalised(up(32, 128, 3), 128)
    second = _normalised(up(128, 64, 5), 64)
    return nn.Sequential(*first, _dsin_body(), *second, *_normalised(up(64, 3, 5), 3, active=False))


class DsinDecoder(nn.Module):
    """Decodes x, codes and decodes y alike, finds for each patch of x the best of y by correlation, and fuses.

    The repository's patches of 20x24 do not divide 128x256; these are of 16x32. The search costs a multiplication
    for each channel, pixel of x and place in y whatever the patch, so this changes little.
    """

    PATCH: Final = (16, 32)

    def __init__(self, encoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, _dsin_decoder()
        layers: list[nn.Module] = []
        for i, dilation in enumerate((1, 2, 4, 8, 16, 32, 64, 128, 1)):
            wide = 6 if i == 0 else 32
            layers += [nn.Conv2d(wide, 32, 3, padding=dilation, dilation=dilation), nn.LeakyReLU(0.2)]
        self.fusion = nn.Sequential(*layers, nn.Conv2d(32, 3, 1))

    def forward(self, latents: Tensor, side: Tensor) -> Tensor:
        """Symbols [1, 32, H/8, W/8] and y [1, 3, H, W] → x̂."""
        source = self.decoder(latents)
        coded_side = self.decoder(self.encoder(side)[:, 1:])
        fused: Tensor = self.fusion(torch.cat([source, self.matched(source, coded_side, side)], 1))
        return fused

    def matched(self, source: Tensor, coded_side: Tensor, side: Tensor) -> Tensor:
        """For every patch of x̂ the patch of y whose coded version correlates most with it (Pearson)."""
        height, width = self.PATCH
        columns = source.shape[3] // width
        patches = F.unfold(source, self.PATCH, stride=self.PATCH)[0].T
        centred = patches - patches.mean(1, keepdim=True)
        products = F.conv2d(coded_side, centred.reshape(-1, 3, height, width))
        ones = torch.ones(1, 3, height, width, device=side.device)
        sums, squares = F.conv2d(coded_side, ones), F.conv2d(coded_side.square(), ones)
        variance = squares - sums.square() / ones.numel()
        best = (products / (variance + 1e-6).sqrt())[0].flatten(1).argmax(1)
        top, left = best // products.shape[3], best % products.shape[3]
        rows = top[:, None, None] + torch.arange(height, device=side.device)[:, None]
        found = side[0][:, rows, left[:, None, None] + torch.arange(width, device=side.device)]
        grid = found.reshape(3, -1, columns, height, width).permute(0, 1, 3, 2, 4)
        return grid.reshape(side.shape)


class DsinPrior(nn.Module):
    """Masked 3-D convolutions over the 32x16x32 symbols; one run over all of them."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 24), (24, 24), (24, 24), (24, 6))
        self.layers = nn.Sequential(*(nn.Conv3d(i, o, (2, 3, 3)) for i, o in sizes))

    def forward(self, symbols: Tensor) -> Tensor:
        """[1, 1, 32 + 4, h + 8, w + 8], padded with context, → [1, 6, 32, h, w]."""
        logits: Tensor = self.layers(symbols)
        return logits


def dsin() -> System:
    """DSIN with the published configuration: 32 channels, 6 centres, 5 groups of blocks."""
    encoder = _dsin_encoder()
    return System(
        "DSIN",
        Part(encoder, (_frame(),)),
        Part(DsinDecoder(encoder), (_frame(32, 8), _frame())),
        Part(DsinPrior(), (torch.zeros(1, 1, 32 + 4, HEIGHT // 8 + 8, WIDTH // 8 + 8),)),
        prior_steps=32 * (HEIGHT // 8) * (WIDTH // 8),
    )


# NDIC and NDIC-CAM: Ballé's transforms, once for x and twice for y

FILTERS: Final = 192


class Gdn(nn.Module):
    """Generalised divisive normalisation: γ is a 1x1 convolution of the squares."""

    def __init__(self, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.gamma = nn.Parameter(0.1 * torch.eye(FILTERS))
        self.beta = nn.Parameter(torch.ones(FILTERS))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        norm = F.conv2d(x.square(), self.gamma[:, :, None, None], self.beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


def _analysis() -> nn.Sequential:
    """[1, 3, H, W] → [1, 192, H/16, W/16]."""
    layers: list[nn.Module] = [nn.Conv2d(3, FILTERS, 5, 2, 2)]
    for _ in range(3):
        layers += [Gdn(), nn.Conv2d(FILTERS, FILTERS, 5, 2, 2)]
    return nn.Sequential(*layers)


def _up(wide: int, narrow: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(wide, narrow, 5, 2, 2, output_padding=1)


def _synthesis() -> nn.Sequential:
    """Private and common latents [1, 384, H/16, W/16] → [1, 3, H, W]."""
    layers: list[nn.Module] = [_up(2 * FILTERS, FILTERS), Gdn(inverse=True)]
    for _ in range(2):
        layers += [_up(FILTERS, FILTERS), Gdn(inverse=True)]
    return nn.Sequential(*layers, _up(FILTERS, 3))


class FactorizedPrior(nn.Module):
    """Ballé's entropy bottleneck, 43 numbers a channel; once trained it is a table, which costs no MAC."""

    def __init__(self) -> None:
        super().__init__()
        # Matrices 1x3, 3x3, 3x3, 3x1, biases 3, 3, 3, 1, and factors 3, 3, 3.
        self.numbers = nn.Parameter(torch.zeros(FILTERS, 24 + 10 + 9))

    def forward(self, latents: Tensor) -> Tensor:
        """Same shape out as in."""
        return latents


class Hyperprior(nn.Module):
    """Ballé 2018: scales of the latents by way of a smaller latent; its own prior is factorised."""

    def __init__(self) -> None:
        super().__init__()
        n = FILTERS
        first, second = nn.Conv2d(n, n, 3, 1, 1), nn.Conv2d(n, n, 5, 2, 2)
        third = nn.Conv2d(n, n, 5, 2, 2, bias=False)
        self.analysis = nn.Sequential(first, second, nn.ReLU(), third)
        self.bottleneck = FactorizedPrior()
        last = nn.ConvTranspose2d(n, n, 3, 1, 1)
        self.synthesis = nn.Sequential(_up(n, n), nn.ReLU(), _up(n, n), nn.ReLU(), last)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents → their scales, same shape: what an encoder runs; a decoder runs the second half."""
        scales: Tensor = self.synthesis(self.bottleneck(self.analysis(latents.abs())))
        return scales


class NdicDecoder(nn.Module):
    """The common latent of y beside the private one of x, and Ballé's synthesis."""

    def __init__(self) -> None:
        super().__init__()
        self.common, self.synthesis = _analysis(), _synthesis()

    def forward(self, latents: Tensor, side: Tensor) -> Tensor:
        """Latents [1, 192, H/16, W/16] and y [1, 3, H, W] → x̂."""
        frame: Tensor = self.synthesis(torch.cat([latents, self.common(side)], 1))
        return frame


def ndic(*, hyperprior: bool) -> System:
    """NDIC on Ballé 2018 (with hyperprior) or Ballé 2017, which in its code has the same transforms."""

    def prior() -> nn.Module:
        return Hyperprior() if hyperprior else FactorizedPrior()

    return System(
        f"NDIC, Ballé {2018 if hyperprior else 2017}",
        Part(_analysis(), (_frame(),)),
        Part(NdicDecoder(), (_frame(FILTERS, 16), _frame())),
        Part(prior(), (_frame(FILTERS, 16),)),
        prior_steps=1,
        training_only=(_analysis(), _synthesis(), prior(), FactorizedPrior()),
    )


class CrossAttention(nn.Module):
    """Each channel's map in 4x4 patches, 3072 tokens of 256 numbers; those of x attend to those of y with 8 heads
    of 256. Queries, keys and values are computed for both, as published, though x needs one and y two of them.
    """

    HEADS: Final = 8

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.patch = height // 4, width // 4
        size, inner = self.patch[0] * self.patch[1], 256 * self.HEADS
        self.source_tokens, self.side_tokens = nn.Linear(size, 256), nn.Linear(size, 256)
        self.norm = nn.LayerNorm(256)
        self.source_projection = nn.Linear(256, 3 * inner, bias=False)
        self.side_projection = nn.Linear(256, 3 * inner, bias=False)
        self.out, self.pixels = nn.Linear(inner, 256), nn.Linear(256, size)

    def forward(self, source: Tensor, side: Tensor) -> Tensor:
        """Two maps [1, 192, h, w] → x's and what it found in y's, [1, 384, h, w]."""

        def tokens(maps: Tensor) -> Tensor:
            folded = F.unfold(maps.transpose(0, 1), self.patch, stride=self.patch)
            return folded.transpose(1, 2).reshape(1, -1, self.patch[0] * self.patch[1])

        def heads(projected: Tensor) -> tuple[Tensor, ...]:
            return projected.view(1, -1, 3 * self.HEADS, 256).transpose(1, 2).chunk(3, 1)

        query = heads(self.source_projection(self.norm(self.source_tokens(tokens(source)))))[0]
        _, key, value = heads(self.side_projection(self.norm(self.side_tokens(tokens(side)))))
        attention = (query @ key.transpose(2, 3) / 16).softmax(-1)
        found = (attention @ value).transpose(1, 2).reshape(1, -1, 256 * self.HEADS)
        pixels = self.pixels(self.out(found)).view(source.shape[1], -1, self.patch[0] * self.patch[1])
        maps = F.fold(pixels.transpose(1, 2), source.shape[2:], self.patch, stride=self.patch)
        return torch.cat([source, maps.transpose(0, 1)], 1)


class CamDecoder(nn.Module):
    """NDIC-CAM: x and y decoded side by side; after each of three layers x attends to y."""

    def __init__(self) -> None:
        super().__init__()
        self.common, self.private = _analysis(), _analysis()
        self.source = nn.ModuleList([*(_up(2 * FILTERS, FILTERS) for _ in range(3)), _up(2 * FILTERS, 3)])
        self.side = nn.ModuleList([_up(2 * FILTERS, FILTERS), *(_up(FILTERS, FILTERS) for _ in range(2))])
        self.source_norm = nn.ModuleList(Gdn(inverse=True) for _ in range(3))
        self.side_norm = nn.ModuleList(Gdn(inverse=True) for _ in range(3))
        self.attention = nn.ModuleList(CrossAttention(HEIGHT // s, WIDTH // s) for s in (8, 4, 2))

    def forward(self, latents: Tensor, side: Tensor) -> Tensor:
        """Latents [1, 192, H/16, W/16] and y [1, 3, H, W] → x̂."""
        common = self.common(side)
        x, y = torch.cat([latents, common], 1), torch.cat([self.private(side), common], 1)
        for layer, attention in enumerate(self.attention):
            x = self.source_norm[layer](self.source[layer](x))
            y = self.side_norm[layer](self.side[layer](y))
            x = attention(x, y)
        frame: Tensor = self.source[3](x)
        return frame


def ndic_cam() -> System:
    """NDIC with cross-attention alignment, on Ballé 2017."""
    training_only = (_up(FILTERS, 3), FactorizedPrior(), FactorizedPrior())
    return System(
        "NDIC-CAM",
        Part(_analysis(), (_frame(),)),
        Part(CamDecoder(), (_frame(FILTERS, 16), _frame())),
        Part(FactorizedPrior(), (_frame(FILTERS, 16),)),
        prior_steps=1,
        training_only=training_only,
    )


def published_systems() -> list[System]:
    """All of the above; Neural DSC's families at the largest codebook that its figures use."""
    families = (("8x", 8, 4), ("8x-first", 8, 4), ("4x", 6, 4), ("2x", 4, 2))
    return [
        *(neural_dsc(*family) for family in families),
        dsin(),
        ndic(hyperprior=False),
        ndic(hyperprior=True),
        ndic_cam(),
    ]
