"""PSNR and MS-SSIM, held to torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.image as image_metrics
from PIL import Image

from ndsc.codec.frames import Frame
from ndsc.evaluate import ms_ssim, ms_ssim_min_side, psnr, psnr_float
from ndsc.evaluate.metrics import SCALE_WEIGHTS


def picture(height: int, width: int, seed: int = 0) -> Frame:
    """Smooth noise: structure at several scales, as in a photograph."""
    size = (height // 8 + 2, width // 8 + 2, 3)
    coarse = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def disturbed(frame: Frame, deviation: float, seed: int = 1) -> Frame:
    noise = np.random.default_rng(seed).normal(0, deviation, frame.shape)
    return np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)


def tensor(frame: Frame) -> torch.Tensor:
    """float64 [1, 3, H, W]."""
    return torch.from_numpy(frame.astype(np.float64)).permute(2, 0, 1)[None]


def test_psnr_agrees_with_torchmetrics() -> None:
    x = picture(61, 97)
    y = disturbed(x, 12)
    # torchmetrics takes the logarithm of the peak in float32.
    expected = image_metrics.peak_signal_noise_ratio(tensor(y), tensor(x), data_range=255.0).item()
    assert psnr(x, y) == pytest.approx(expected, abs=1e-5)
    assert psnr(y, x) == psnr(x, y)
    assert psnr_float(x / 255, y / 255) == pytest.approx(expected, abs=1e-5)


def test_psnr_of_one_grey_level_everywhere() -> None:
    x = np.full((4, 5, 3), 200, np.uint8)
    assert psnr(x, x + np.uint8(1)) == pytest.approx(20 * math.log10(255))
    # Below zero an unsigned difference would wrap.
    assert psnr(x, x - np.uint8(1)) == pytest.approx(20 * math.log10(255))
    assert psnr_float(np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.1, np.float32)) == pytest.approx(20, abs=1e-5)


def test_psnr_of_equal_frames_is_infinite() -> None:
    x = picture(16, 16)
    assert psnr(x, x) == math.inf
    assert psnr_float(x / 255, x / 255) == math.inf


def test_psnr_refuses_what_it_would_misjudge() -> None:
    x = picture(16, 16)
    with pytest.raises(ValueError, match="uint8"):
        psnr(x, (x / 255).astype(np.float32))
    with pytest.raises(ValueError, match="float"):
        psnr_float(x / 255, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one shape"):
        psnr(x, x[:1])


def torchmetrics_ms_ssim(x: Frame, y: Frame, window: int, sigma: float) -> float:
    """MS-SSIM of each channel by itself, inside the frame, put together from torchmetrics' public parts.

    torchmetrics mixes the channels at each scale and lets its last scale see a mirrored border. So channels
    go in as a batch, the last scale gets weight 0, and its own similarity map is cropped and multiplied on.
    Its window comes from sigma: int(3.5 * sigma + 0.5) * 2 + 1.
    """
    assert int(3.5 * sigma + 0.5) * 2 + 1 == window
    channels_x, channels_y = tensor(x).transpose(0, 1), tensor(y).transpose(0, 1)
    finer = image_metrics.multiscale_structural_similarity_index_measure(
        channels_x, channels_y, sigma=sigma, kernel_size=window, data_range=255.0, reduction="none",
        betas=(*SCALE_WEIGHTS[:-1], 0.0),
    )  # fmt: skip
    for _ in SCALE_WEIGHTS[1:]:
        channels_x = torch.nn.functional.avg_pool2d(channels_x, 2)
        channels_y = torch.nn.functional.avg_pool2d(channels_y, 2)
    _, similarity = image_metrics.structural_similarity_index_measure(
        channels_x, channels_y, sigma=sigma, data_range=255.0, reduction="none", return_full_image=True
    )
    border = window // 2
    last = similarity[..., border:-border, border:-border].mean(dim=(1, 2, 3)).clamp(min=0)
    return float((finer * last ** SCALE_WEIGHTS[-1]).mean())


@pytest.mark.parametrize(
    ("height", "width", "window", "sigma"),
    [(128, 256, 7, 0.9), (113, 127, 7, 0.9), (189, 193, 11, 1.5)],
)
@pytest.mark.parametrize("deviation", [4, 120])
def test_ms_ssim_agrees_with_torchmetrics(
    height: int, width: int, window: int, sigma: float, deviation: float
) -> None:
    x = picture(height, width)
    y = disturbed(x, deviation)
    measured = ms_ssim(x, y, window, sigma)
    # torch keeps the exponents in float32.
    assert measured == pytest.approx(torchmetrics_ms_ssim(x, y, window, sigma), abs=1e-7)
    assert 0.2 < measured < 0.9999


@pytest.mark.parametrize(("height", "width", "window", "sigma"), [(128, 256, 7, 0.9), (192, 224, 11, 1.5)])
def test_ms_ssim_is_near_torchmetrics_as_it_comes(height: int, width: int, window: int, sigma: float) -> None:
    x = picture(height, width)
    y = disturbed(x, 20)
    expected = image_metrics.multiscale_structural_similarity_index_measure(
        tensor(x), tensor(y), sigma=sigma, kernel_size=window, data_range=255.0
    ).item()
    assert ms_ssim(x, y, window, sigma) == pytest.approx(expected, abs=1e-4)


def test_ms_ssim_defaults_to_the_kitti_window() -> None:
    x = picture(128, 256)
    y = disturbed(x, 30)
    assert ms_ssim(x, y) == ms_ssim(x, y, window=7, sigma=1.5)
    assert ms_ssim(x, y) != ms_ssim(x, y, window=7, sigma=0.9)


def test_ms_ssim_of_equal_frames_is_one() -> None:
    x = picture(112, 112)
    assert ms_ssim(x, x) == pytest.approx(1.0, abs=1e-12)


def test_ms_ssim_of_a_negative_is_zero_and_not_complex() -> None:
    x = picture(128, 128)
    assert ms_ssim(x, ~x) == 0.0


def test_ms_ssim_is_the_mean_of_the_channels() -> None:
    x = picture(112, 120)
    y = disturbed(x, 40)
    y[..., 2] = x[..., 2]
    single = [ms_ssim(x[..., c : c + 1], y[..., c : c + 1]) for c in range(3)]
    assert single[2] == pytest.approx(1.0, abs=1e-12)
    assert ms_ssim(x, y) == pytest.approx(sum(single) / 3, abs=1e-12)


def test_ms_ssim_needs_the_window_to_fit_the_last_scale() -> None:
    assert ms_ssim_min_side(7) == 112
    assert ms_ssim_min_side(11) == 176
    with pytest.raises(ValueError, match="at least 112, not 111x200"):
        ms_ssim(picture(200, 111), picture(200, 111))
    with pytest.raises(ValueError, match="odd"):
        ms_ssim(picture(200, 200), picture(200, 200), window=8)
    with pytest.raises(ValueError, match="one shape"):
        ms_ssim(picture(200, 200), picture(200, 208))
