"""Halves, views, CelebA-HQ's layouts, and codes that are compared at equal bits."""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ndsc.codec.frames import encode_image
from training.datasets.celeba import CelebaError, load_celeba
from training.datasets.halves import digit_halves, halves, with_mirrored
from training.datasets.views import Views, WindowSampler, stack_frames, to_signal
from training.experiments.fixed_rate import CodeConfig, Setup, run_folder, start, train
from training.experiments.seeds import estimate, paired
from training.experiments.sources.__main__ import Run, summarise
from training.experiments.sources.data import strips
from training.paper.convolutional import FamilyConfig, Mode
from training.paper.dense import DenseConfig
from training.paper.scoring import score

SETUP = Setup(
    FamilyConfig((4, 8, 8), 4, 1, latent_dimension=4),
    bits=(2,),
    seeds=2,
    steps=6,
    batch_size=4,
    window_px=16,
    unquantized_steps=2,
)
DENSE = replace(SETUP, family=DenseConfig(positions=4, latent_dimension=4, hidden=8, residual=4, blocks=1))


def pictures(count: int = 6, width: int = 24) -> Views:
    generator = torch.Generator().manual_seed(5)
    return halves(torch.randint(0, 256, (count, 3, 16, width), dtype=torch.uint8, generator=generator))


CONFIG = SETUP.code(pictures(), 2)
DENSE_CONFIG = DENSE.code(pictures(), 2)
both_networks = pytest.mark.parametrize("config", [CONFIG, DENSE_CONFIG], ids=["convolutional", "dense"])


def test_the_upper_half_is_the_source() -> None:
    picture = torch.arange(2 * 4 * 3, dtype=torch.uint8).view(2, 1, 4, 3)
    views = halves(picture)
    assert views.pictures[0].tolist() == picture[:, :, :2].tolist()
    assert views.pictures[1].tolist() == picture[:, :, 2:].tolist()
    assert (views.source_channels, views.side_channels, len(views)) == (1, (1,), 2)


def test_digits_are_padded_to_whole_strides_and_measured_without() -> None:
    views = digit_halves(torch.full((3, 28, 28), 255, dtype=torch.uint8))
    upper, lower = views.pictures
    assert upper.shape == lower.shape == (3, 1, 16, 32)
    assert views.measured(upper).shape == (3, 1, 14, 28)
    assert views.measured(upper).min() == 255  # all of the digit's pixels and no other
    assert upper.sum() == lower.sum() == 3 * 14 * 28 * 255


def test_mirrored_pictures_follow_the_originals() -> None:
    picture = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
    assert with_mirrored(picture).flatten(1).tolist() == [[1, 2, 3], [3, 2, 1]]


def test_windows_of_all_views_are_the_same_place() -> None:
    columns = torch.arange(24, dtype=torch.uint8).repeat(6, 1, 2, 1)
    views = Views((columns, 100 + columns))
    x, y = WindowSampler(views, 8, 16, seed=1)(3)
    assert x.shape == y.shape == (8, 1, 2, 16)
    assert torch.allclose(255 * (y - x), torch.tensor(100.0), atol=1e-4)
    assert torch.allclose(255 * x.diff(dim=3), torch.tensor(1.0), atol=1e-4)
    assert len({float(start) for start in x[:, 0, 0, 0]}) > 1


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, again, other = (WindowSampler(pictures(), 4, 16, seed)(7) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], WindowSampler(pictures(), 4, 16, 1)(8)[0])


def test_cut_windows_keep_every_whole_column_once() -> None:
    views = pictures(2, width=40).windows(16)
    assert views.pictures[0].shape == (4, 3, 8, 16)
    whole = pictures(2, width=40).pictures[0]
    assert torch.equal(views.pictures[0][1], whole[0, :, :, 16:32])
    assert torch.equal(views.pictures[0][2], whole[1, :, :, :16])


def test_frames_are_stacked_at_one_height_and_the_narrowest_width() -> None:
    frames = [np.full((20, width, 3), 9, np.uint8) for width in (50, 40)]
    assert stack_frames(frames, 10).shape == (2, 3, 10, 20)


def test_strips_are_the_rows_of_the_picture() -> None:
    rows = torch.arange(8, dtype=torch.uint8).view(1, 1, 8, 1).expand(2, 3, 8, 5)
    cut = strips(rows, 4, 2)
    assert cut.shape == (6, 3, 4, 5)
    assert cut[:3, 0, :, 0].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]


def face(shade: int, side: int = 32) -> bytes:
    return encode_image(np.full((side, side, 3), shade, np.uint8), "png")


@pytest.mark.parametrize("zipped", [False, True])
def test_celeba_in_the_order_of_its_numbers_without_the_masks(tmp_path: Path, zipped: bool) -> None:
    files = {f"CelebA-HQ-img/{n}.png": face(n) for n in range(40)}
    files["CelebAMask-HQ-mask-anno/0/00000_hair.png"] = face(200)
    files["README.txt"] = b"faces"
    path = tmp_path / "celeba"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    faces = load_celeba(path, side_px=16)
    assert faces.train.shape == (36, 3, 16, 16)
    shades = torch.cat([faces.train, faces.val, faces.test])[:, 0, 0, 0]
    assert shades.tolist() == list(range(40))
    assert len(faces.val) == len(faces.test) == 2
    assert len(load_celeba(path, side_px=16, limit=20).train) == 18


def test_what_is_not_celeba_is_named(tmp_path: Path) -> None:
    with pytest.raises(CelebaError, match="neither a folder nor a zip"):
        load_celeba(tmp_path / "nothing.zip")
    with pytest.raises(CelebaError, match="0 images named by a number"):
        load_celeba(tmp_path)
    for n in range(40):
        (tmp_path / f"{n}.png").write_bytes(encode_image(np.zeros((8, 9, 3), np.uint8), "png"))
    with pytest.raises(CelebaError, match="9x8 is not square"):
        load_celeba(tmp_path)


@both_networks
def test_codes_of_one_seed_compute_the_same_until_they_are_trained(config: CodeConfig) -> None:
    codes = [start(replace(config, mode=mode.value), 3) for mode in Mode]
    x, y = WindowSampler(pictures(), 4, 16, 0)(0)
    latents = [code.encode(x, y) for code in codes]
    assert all(torch.equal(other, latents[0]) for other in latents)
    outputs = {mode: code.decode(latents[0], y) for mode, code in zip(Mode, codes, strict=True)}
    assert torch.equal(outputs[Mode.JOINT], outputs[Mode.DISTRIBUTED])
    assert not torch.equal(outputs[Mode.SEPARATE], outputs[Mode.DISTRIBUTED])
    assert not torch.equal(start(config, 4).encode(x, y), latents[0])


@both_networks
def test_a_code_starts_around_the_mean_of_its_pictures(config: CodeConfig) -> None:
    black, _ = halves(torch.zeros((1, 3, 16, 16), dtype=torch.uint8)).batch(
        torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 16
    )
    dark, grey = (start(config, 0, mean)(black, black, quantize=False).output.mean() for mean in (-0.4, 0.0))
    assert dark < -0.3 < grey


@pytest.mark.parametrize("setup", [SETUP, DENSE], ids=["convolutional", "dense"])
def test_training_lets_the_joint_encoder_see_y(tmp_path: Path, setup: Setup) -> None:
    views = pictures()
    x, y = WindowSampler(views, 4, 16, 0)(0)
    for mode in Mode:
        code = setup.code(views, 2, mode)
        model = train(setup, views, views.windows(16), code, 0, tmp_path / mode).model
        assert torch.equal(model.encode(x, y), model.encode(x, -y)) is (mode is not Mode.JOINT)


def test_a_score_is_the_distortion_of_the_measured_part_and_counts_the_bits() -> None:
    views = replace(pictures(5, width=16), padding_px=(2, 0, 1, 0))
    model = start(CONFIG, 0).eval()
    scored = score(model, views)
    errors = []
    for index in range(5):
        x, y = (to_signal(view[index : index + 1]) for view in views.pictures)
        with torch.no_grad():
            errors.append(float((model(x, y).output - x)[:, :, 1:, 2:].square().mean()))
    assert scored.mse == pytest.approx(np.mean(errors), rel=1e-5)
    assert scored.psnr_db == pytest.approx(np.mean([-10 * math.log10(e) for e in errors]), rel=1e-5)
    assert scored.bits == 2 * (8 // 4) * (16 // 4)
    assert score(start(DENSE_CONFIG, 0).eval(), views).bits == 2 * 4


def test_a_wrong_view_changes_what_sees_it_and_nothing_else() -> None:
    views = pictures(4, width=16)
    distributed, separate = (
        start(replace(CONFIG, mode=mode.value), 0).eval() for mode in (Mode.DISTRIBUTED, Mode.SEPARATE)
    )
    assert score(distributed, views, wrong_side_view=0).mse != score(distributed, views).mse
    assert score(separate, views, wrong_side_view=0) == score(separate, views)


def test_a_finished_code_is_not_trained_again(tmp_path: Path) -> None:
    views = pictures()
    windows = views.windows(16)
    steps: list[int] = []
    first = train(SETUP, views, windows, CONFIG, 0, tmp_path, steps.append)
    assert steps == [1, 2, 3, 4, 5, 6, 6]
    steps.clear()
    again = train(SETUP, views, windows, CONFIG, 0, tmp_path, steps.append)
    assert steps == [6]
    assert (again.score, again.seconds) == (first.score, first.seconds)
    assert score(again.model, windows) == first.score


def test_other_pictures_or_batches_are_kept_elsewhere(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "x", SETUP, pictures())
    assert folder == run_folder(tmp_path, "x", SETUP, pictures())
    others = {
        run_folder(tmp_path, "x", SETUP, pictures(5)),
        run_folder(tmp_path, "x", replace(SETUP, batch_size=5), pictures()),
        run_folder(tmp_path, "x", replace(SETUP, distortion_weight=5.0), pictures()),
    }
    assert folder not in others
    assert len(others) == 3


def test_bars_over_seeds() -> None:
    values = estimate([1.0, 2.0, 3.0])
    assert (values.mean, values.standard_error) == pytest.approx((2.0, 3**-0.5))
    assert values.half_width == pytest.approx(4.302653 * 3**-0.5)  # Student's t, 2 degrees of freedom
    assert not values.clear
    # The seeds differ far more than the codes do.
    assert paired([1.1, 2.1, 3.11], [1.0, 2.0, 3.0]).clear
    with pytest.raises(ValueError, match="at least two seeds"):
        estimate([1.0])


def test_the_table_pairs_each_mode_with_distributed() -> None:
    levels = {Mode.JOINT: 0.1, Mode.DISTRIBUTED: 0.2, Mode.SEPARATE: 0.4}
    runs = [
        Run("mnist", 2, mode.value, seed, 64, mse + seed, -10 * math.log10(mse + seed), 1.0)
        for mode, mse in levels.items()
        for seed in (0, 1)
    ]
    joint, distributed, separate = summarise(runs)
    assert [row["mode"] for row in (joint, distributed, separate)] == ["joint", "distributed", "separate"]
    assert joint["mse"] == pytest.approx(0.6)
    assert joint["mse_over_distributed"] == pytest.approx(-0.1)
    assert separate["mse_over_distributed"] == pytest.approx(0.2)
    assert separate["clear"] is True
    assert distributed["mse_over_distributed"] is None
