"""The paper's networks: sizes against the reference's, who sees y in each mode, and runs that resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.checkpoint import CheckpointError
from training.paper.convolutional import FAMILIES, ConvolutionalVQVAE, FamilyConfig, Mode
from training.paper.dense import DenseConfig, DenseVQVAE
from training.paper.fitting import FitConfig, fit, read_run

SMALL = FamilyConfig((8, 12, 16), 8, 1, bits=3, latent_dimension=6)
DENSE = DenseConfig(length=20, positions=5, bits=2, latent_dimension=6, hidden=16, residual=8)


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def pair(step: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """x and a y that resembles it."""
    generator = torch.Generator().manual_seed(step)
    source = torch.rand(4, 3, 16, 32, generator=generator) - 0.5
    return source, (source + 0.1 * torch.randn(source.shape, generator=generator))[:, :channels]


def vectors(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    source = torch.randn(8, DENSE.length, generator=generator)
    return source, source + 0.1 * torch.randn(source.shape, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_encoders_are_as_large_as_the_reference_s(family: str) -> None:
    """The reference's encoders have 0.3 to 1.6 million parameters; its largest is 8x, its smallest 2x."""
    model = ConvolutionalVQVAE(FAMILIES[family])
    least, most = {"8x": (1.5e6, 1.7e6), "2x": (0.25e6, 0.35e6)}.get(family, (0.3e6, 1.6e6))
    assert least < parameters(model.encoder) < most


@pytest.mark.parametrize(("family", "bits", "bpp"), [("8x", 8, 0.125), ("4x", 3, 0.1875), ("2x", 3, 0.75)])
def test_fixed_length_rates_are_the_published_ones(family: str, bits: int, bpp: float) -> None:
    assert replace(FAMILIES[family], bits=bits).fixed_bpp == bpp


def test_a_frame_comes_back_at_its_size_through_one_index_a_position() -> None:
    torch.manual_seed(0)
    model = ConvolutionalVQVAE(SMALL).eval()
    source, side = pair(0)
    coded = model(source, side)
    assert coded.output.shape == source.shape
    assert coded.output.abs().max() < 0.5
    assert coded.quantized.indices.shape == (4, 1, 4, 8)
    assert int(coded.quantized.indices.max()) < 8


@pytest.mark.parametrize("mode", Mode)
def test_y_reaches_only_who_may_see_it(mode: Mode) -> None:
    torch.manual_seed(0)
    convolutional = ConvolutionalVQVAE(replace(SMALL, mode=mode.value))
    dense = DenseVQVAE(replace(DENSE, mode=mode.value))
    for model, (source, side) in ((convolutional, pair(0)), (dense, vectors(0))):
        other = side.flip(0)
        latents = model.encode(source, side)
        encoder_sees = not torch.equal(latents, model.encode(source, other))
        decoder_sees = not torch.equal(model.decode(latents, side), model.decode(latents, other))
        assert encoder_sees == (mode is Mode.JOINT)
        assert decoder_sees == (mode is not Mode.SEPARATE)


def test_modes_are_one_network_but_for_the_joint_encoder_s_first_layer() -> None:
    sizes = {mode: parameters(ConvolutionalVQVAE(replace(SMALL, mode=mode.value))) for mode in Mode}
    assert sizes[Mode.DISTRIBUTED] == sizes[Mode.SEPARATE]
    half = SMALL.channels[0] // 2
    assert sizes[Mode.JOINT] - sizes[Mode.SEPARATE] == half * 3 * 9 + half


def test_every_side_view_has_its_own_network_and_is_used() -> None:
    torch.manual_seed(0)
    model = ConvolutionalVQVAE(replace(SMALL, side_channels=(3, 1)))
    source, colour = pair(0)
    grey = colour.mean(1, keepdim=True)
    latents = model.encode(source, torch.cat([colour, grey], 1))
    both = model.decode(latents, torch.cat([colour, grey], 1))
    assert not torch.equal(both, model.decode(latents, torch.cat([colour.flip(0), grey], 1)))
    assert not torch.equal(both, model.decode(latents, torch.cat([colour, grey.flip(0)], 1)))


def test_scaling_changes_width_and_depth_and_nothing_else() -> None:
    scaled = FAMILIES["8x"].scaled(1 / 3, 2)
    assert (scaled.channels, scaled.residual_channels, scaled.residual_layers) == ((16, 32, 64, 64), 16, 2)
    assert (scaled.stride, scaled.bits, scaled.latent_dimension) == (8, 8, 64)


@pytest.mark.parametrize("published", [True, False])
def test_training_lowers_the_loss_below_the_best_constant(published: bool) -> None:
    torch.manual_seed(0)
    model = DenseVQVAE(DENSE)
    config = FitConfig(steps=600, learning_rate=1e-2, unquantized_steps=40, published_codebook=published)
    fitted = fit(model, vectors, config)
    assert fitted.losses[-1] < 0.5 < 1.0 < 1.2 * fitted.losses[0]  # zero is the best constant: loss 1


def test_a_stopped_run_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stopping(step: int) -> tuple[Tensor, Tensor]:
        if step == 17:
            raise StoppedError
        return vectors(step)

    config = FitConfig(steps=30, unquantized_steps=5)
    torch.manual_seed(3)
    whole = fit(DenseVQVAE(DENSE), vectors, config)
    torch.manual_seed(3)
    with pytest.raises(StoppedError):
        fit(DenseVQVAE(DENSE), stopping, config, directory=tmp_path, save_seconds=0)
    resumed_model = DenseVQVAE(DENSE)
    resumed = fit(resumed_model, vectors, config, directory=tmp_path)
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-5)
    record, tensors = read_run(tmp_path / "run.safetensors")
    assert record["step"] == 30
    assert torch.equal(tensors["model"]["decoder_head.weight"], resumed_model.decoder_head.weight)


def test_a_finished_run_is_loaded_and_not_done_again(tmp_path: Path) -> None:
    config = FitConfig(steps=12, unquantized_steps=4)
    first = DenseVQVAE(DENSE)
    fit(first, vectors, config, directory=tmp_path)

    def no_more(step: int) -> tuple[Tensor, Tensor]:
        raise AssertionError(f"step {step} of a finished run")

    second = DenseVQVAE(DENSE)
    assert fit(second, no_more, config, directory=tmp_path).steps == 12
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_bfloat16_trains_too_and_is_not_float32() -> None:
    config = FitConfig(steps=60, learning_rate=1e-2, unquantized_steps=20)
    losses = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        losses.append(fit(DenseVQVAE(DENSE), vectors, config, precision=precision).losses)
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_another_run_s_folder_is_refused(tmp_path: Path) -> None:
    config = FitConfig(steps=6, unquantized_steps=2)
    fit(DenseVQVAE(DENSE), vectors, config, directory=tmp_path)
    with pytest.raises(CheckpointError, match="other settings"):
        fit(DenseVQVAE(DENSE), vectors, replace(config, steps=7), directory=tmp_path)
    with pytest.raises(CheckpointError, match="other settings"):
        fit(DenseVQVAE(DENSE), vectors, config, directory=tmp_path, made_with={"data": "others"})
    (tmp_path / "run.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(CheckpointError, match="not a run"):
        fit(DenseVQVAE(DENSE), vectors, config, directory=tmp_path)
