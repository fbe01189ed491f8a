"""One point of the curve: train a code, then a prior on its indices, and measure both on real bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ndsc.codec.frames import Frame, to_uint8
from ndsc.evaluate.metrics import ms_ssim, psnr, psnr_float
from training.checkpoint import CheckpointError
from training.config import Precision
from training.datasets.views import Views
from training.experiments.recipe import RecipeError
from training.experiments.stereo.frames import StereoSampler
from training.experiments.stereo.settings import Point, StereoConfig
from training.paper import prior
from training.paper.convolutional import ConvolutionalVQVAE, FamilyConfig
from training.paper.fitting import ONE_PROCESS, fit, mean_squared_error, read_run
from training.ranks import Ranks

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, of how many)."""

_CODED_TOGETHER = 32
"""Images of one pass of the prior's coder; GPU memory sets the bound."""


@dataclass(frozen=True)
class ImageFigures:
    """One test image through one code."""

    fixed_bytes: int
    prior_counted_bits: int
    """The paper's count: ⌈−Σ log2 p⌉ + 1."""
    prior_bytes: int
    """Real bytes, range-coded."""
    psnr_float: float
    """dB, float output."""
    psnr_8bit: float
    """dB, output rounded to 8 bits."""
    ms_ssim: float
    """Window 7, 8-bit output."""


@dataclass(frozen=True)
class Measured:
    """One code on a test set."""

    images: tuple[ImageFigures, ...]
    codec_parameters: int
    prior_parameters: int
    codebook_used: float
    """Share of the code vectors that the test set uses."""
    training_seconds: float
    prior_seconds: float
    measuring_seconds: float

    def mean(self, figure: str) -> float:
        """Mean of one field of `ImageFigures` over the images."""
        return fmean(getattr(image, figure) for image in self.images)

    def save(self, path: Path, made_with: dict[str, Any]) -> None:
        """Write as JSON, with the settings that it holds for."""
        path.write_text(json.dumps({"made_with": made_with, "measured": asdict(self)}) + "\n")

    @classmethod
    def load(cls, path: Path, made_with: dict[str, Any]) -> Self | None:
        """What `save` wrote, or None when there is none yet. Raises CheckpointError for other settings."""
        if not path.exists():
            return None
        record = json.loads(path.read_text())
        if record["made_with"] != made_with:
            raise CheckpointError(
                f"{path}: measured with other settings; give them again, or another --output"
            )
        images = tuple(ImageFigures(**image) for image in record["measured"].pop("images"))
        return cls(images=images, **record["measured"])


@dataclass(frozen=True)
class Data:
    """Views on the device: training, validation and test set, the last two in both directions."""

    train: Views
    validation: Views
    test: Views
    name: str
    """Names the data in the record of what was measured."""
    split: str = "test"
    """What `test` is, test or val: one trained code may be measured on both."""


def run_point(
    point: Point,
    config: StereoConfig,
    data: Data,
    directory: Path,
    device: torch.device,
    progress: Progress,
    ranks: Ranks = ONE_PROCESS,
    precision: Precision = "fp32",
) -> Measured | None:
    """Train and measure one point in `directory`; what is finished there is not done again.

    All `ranks` train the code; the first alone fits the prior and measures, and the others wait and get None.

    Raises CheckpointError when `directory` holds runs with other settings, RecipeError when the coded bytes do not
    decode to the indices.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Through JSON, which knows lists only, so that a record compares equal to itself read back.
    made_with = json.loads(json.dumps({"config": config.to_dict(), "data": data.name}))
    if precision != "fp32":
        made_with["precision"] = precision
    record = directory / ("measured.json" if data.split == "test" else f"measured-{data.split}.json")
    measured = Measured.load(record, made_with)
    if measured:
        return measured if ranks.rank == 0 else None
    torch.manual_seed(config.seed)
    model = ConvolutionalVQVAE(point.network(config)).to(device)
    # A fifth less time on a CPU (measured: 0.57 against 0.47 s a step of 8x, 1.09 against 0.87 of 4x).
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def distortion(output: Tensor, source: Tensor) -> Tensor:
        return config.distortion_weight * mean_squared_error(output, source)

    fitted = fit(
        model,
        StereoSampler(data.train, config.batch_size, config.seed, config.published_flips),
        point.fit(config),
        distortion=distortion,
        directory=directory,
        made_with=made_with,
        ranks=ranks,
        precision=precision,
        progress=lambda done, total: progress(point.name, done, total),
    )
    if ranks.rank > 0:
        ranks.wait()
        return None
    started = perf_counter()
    transformer = _fit_prior(point, config, model, data, directory / "prior", progress)
    prior_seconds = perf_counter() - started
    started = perf_counter()
    indices, outputs = code(model, data.test)
    counted = np.ceil(prior.image_bits(transformer, indices)).astype(int) + 1
    coded: list[bytes] = []
    for first in range(0, len(indices), _CODED_TOGETHER):
        part = indices[first : first + _CODED_TOGETHER]
        sent = prior.encode(transformer, part)
        if not np.array_equal(prior.decode(transformer, sent, *part.shape[2:]), part):
            raise RecipeError(f"{point.name}: the prior's bytes do not give the indices back on this machine")
        coded += sent
        progress(f"{point.name} bytes", len(coded), len(indices))
    images = tuple(
        _figures(source, output, len(pack(grid, point.bits)), int(bits), len(sent))
        for source, output, grid, bits, sent in zip(
            data.test.pictures[0], outputs, indices, counted, coded, strict=True
        )
    )
    measured = Measured(
        images,
        codec_parameters=_parameters(model),
        prior_parameters=_parameters(transformer),
        codebook_used=len(np.unique(indices)) / 2**point.bits,
        training_seconds=fitted.seconds,
        prior_seconds=prior_seconds,
        measuring_seconds=perf_counter() - started,
    )
    measured.save(record, made_with)
    ranks.wait()
    return measured


def load_code(directory: Path, device: torch.device) -> ConvolutionalVQVAE:
    """The code of a run that `run_point` has finished. Raises CheckpointError."""
    record, tensors = read_run(directory / "run.safetensors")
    if record["step"] < record["fit"]["steps"]:
        raise CheckpointError(f"{directory}: not trained to the end; run the stereo experiment again")
    model = ConvolutionalVQVAE(FamilyConfig.from_dict(record["model"]))
    model.load_state_dict(tensors["model"])
    return model.to(device).eval()


def _fit_prior(
    point: Point,
    config: StereoConfig,
    model: ConvolutionalVQVAE,
    data: Data,
    directory: Path,
    progress: Progress,
) -> prior.CausalTransformer:
    network, settings = point.prior(config), point.prior_fit(config)
    made_with = json.loads(json.dumps({"network": network.to_dict(), "fit": settings.to_dict()}))
    finished = directory / "finished.json"
    device = data.train.pictures[0].device
    if finished.exists() and json.loads(finished.read_text()) == made_with:
        return prior.load(directory).to(device)
    finished.unlink(missing_ok=True)  # what it names is overwritten from here on
    # Computed once and not mirrored, as in the paper: either frame as it is.
    training = prior.windows(_indices(model, torch.cat(data.train.pictures)), network.grid)
    held_out = prior.windows(_indices(model, data.validation.pictures[0]), network.grid)

    def sample(step: int) -> prior.Grids:
        rng = np.random.default_rng((settings.seed, step))
        return training[rng.integers(len(training), size=settings.batch_size)]

    torch.manual_seed(config.seed)
    transformer = prior.fit_prior(
        prior.CausalTransformer(network).to(device),
        sample,
        {"validation": held_out},
        settings,
        directory,
        progress=lambda done, total: progress(f"{point.name} prior", done, total),
    )
    finished.write_text(json.dumps(made_with) + "\n")
    return transformer


def _indices(model: ConvolutionalVQVAE, frames: Tensor) -> prior.Grids:
    return code(model, Views((frames, frames)), decoded=False)[0]


@torch.no_grad()
def code(
    model: ConvolutionalVQVAE, views: Views, *, side: Tensor | None = None, decoded: bool = True
) -> tuple[prior.Grids, Tensor]:
    """Indices [N, 1, h, w] of every view's x, and x̂ float32 [N, 3, H, W] in [0, 1] on the CPU.

    `side`, in [-0.5, 0.5], takes the place of y at the decoder; without `decoded` there is no x̂ (N = 0).
    """
    device = views.pictures[0].device
    indices, outputs = [], []
    for samples in torch.split(torch.arange(len(views), device=device), 16):
        source, own_side = views.batch(samples, torch.zeros_like(samples), views.width)
        quantized = model.quantizer(model.encode(source, own_side))
        indices.append(quantized.indices.cpu())
        if decoded:
            shown = own_side if side is None else side[samples]
            outputs.append(model.decode(quantized.latents, shown).cpu() + 0.5)
    grids = torch.cat(indices).numpy().astype(np.uint16)
    return grids, torch.cat(outputs) if outputs else torch.zeros(0)


def pack(grid: prior.Grids, bits: int) -> bytes:
    """Fixed length: `bits` of each index, most significant first, filled up to whole bytes."""
    planes = (grid.ravel()[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.astype(np.uint8)).tobytes()


def _figures(source: Tensor, output: Tensor, fixed: int, counted: int, coded: int) -> ImageFigures:
    frame: Frame = source.permute(1, 2, 0).cpu().numpy()
    pixels = output.numpy()
    rounded = to_uint8(pixels)
    return ImageFigures(
        fixed_bytes=fixed,
        prior_counted_bits=counted,
        prior_bytes=coded,
        psnr_float=psnr_float(frame / 255, pixels.transpose(1, 2, 0)),
        psnr_8bit=psnr(frame, rounded),
        ms_ssim=ms_ssim(frame, rounded),
    )


def _parameters(model: torch.nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
