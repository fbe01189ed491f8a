"""The codec trained for rate and distortion: its loss, its levels, and side information that is of no use."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from ndsc.codec.bitstream import from_bytes, to_bytes
from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.errors import RateLevelError
from ndsc.codec.frames import to_float
from ndsc.codec.scalar_prior import ScalarPrior
from ndsc.evaluate.metrics import ms_ssim
from tests.training.small_scalar import CONFIG, MODEL
from training.checkpoint import Checkpoint, CheckpointError
from training.config import OptimizerKind, TrainConfig
from training.data import Pair, TrainingData, render_drives
from training.export import EncoderGraph, check_frames, export
from training.layers import Pointwise
from training.ms_ssim import ms_ssim as loss_ms_ssim
from training.run import Run, train
from training.scalar_codec import MS_SSIM_SCALE, ScalarCodec, distortion_weights
from training.validation import validate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run() -> Run:
    """A short run on two drives."""
    run = Run(MODEL, CONFIG, CPU)
    data = TrainingData([], render_drives(2, seed=5, width=160, height=80), CPU)
    run.facts["losses"] = [pending.read().loss for pending in train(run, data)]
    return run


def test_training_lowers_the_loss(run: Run) -> None:
    losses = run.facts["losses"]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_rate_and_quality_of_a_trained_codec_rise_with_the_level(run: Run) -> None:
    frames = [(p.left[:64, :128], p.right[:64, :128]) for p in render_drives(2, seed=9, width=160, height=80)]
    scores = validate(run.checkpoint(), frames, CPU)
    assert set(scores) == {"right", "none", "bpp"}
    assert sorted(scores["bpp"]) == scores["bpp"]
    assert scores["bpp"][2] > 1.2 * scores["bpp"][0]
    assert scores["right"][2] > scores["right"][0]


def test_the_loss_is_bits_and_weighted_squared_error() -> None:
    torch.manual_seed(0)
    codec = ScalarCodec(MODEL)
    source, side = torch.rand(2, 2, 3, 32, 64)
    level = torch.tensor([0, 2])
    with torch.no_grad():
        result = codec(source, side, torch.ones(2), level)
    loss, mse, bpp = codec.losses(result, source, level, CONFIG).tolist()
    errors = [float(((result.frame[i] - source[i]) * 255).square().mean()) for i in range(2)]
    low, high = CONFIG.lowest_lambda, CONFIG.highest_lambda
    rates = [float(bits) / (32 * 64) for bits in result.bits]
    by_hand = [
        (rates[0] + low * errors[0]) / math.sqrt(low / high),
        rates[1] + high * errors[1],
    ]
    assert loss == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    assert mse * 255**2 == pytest.approx(sum(errors) / 2, rel=1e-5)
    assert bpp == pytest.approx(sum(rates) / 2, rel=1e-5)


@pytest.mark.parametrize("size", [(112, 128), (128, 256), (115, 131)])
def test_ms_ssim_as_a_loss_is_the_one_that_is_reported(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size)
    frame = render_drives(1, seed=9, width=256, height=128)[0].left[: size[0], : size[1]]
    noisy = np.clip(frame + rng.normal(0, 20, frame.shape), 0, 255).astype(np.uint8)
    x, y = (torch.from_numpy(to_float(np.ascontiguousarray(f))).double()[None] for f in (frame, noisy))
    y.requires_grad_()
    found = loss_ms_ssim(x, y)
    assert found.item() == pytest.approx(ms_ssim(frame, noisy), abs=1e-6)
    assert loss_ms_ssim(x, x).item() == pytest.approx(1, abs=1e-9)
    torch.autograd.backward(found.sum())
    assert y.grad is not None
    assert bool(y.grad.isfinite().all())
    with torch.no_grad():
        better = loss_ms_ssim(x, y + 0.01 * y.grad / y.grad.abs().max())
    assert better.item() > found.item()


def test_the_loss_may_be_ms_ssim_in_part() -> None:
    torch.manual_seed(0)
    codec = ScalarCodec(MODEL)
    source, side = torch.rand(2, 1, 3, 128, 128)
    level = torch.tensor([2])
    with torch.no_grad():
        result = codec(source, side, torch.ones(1), level)
        plain, half, full = (
            codec.losses(result, source, level, replace(CONFIG, ms_ssim_share=share))[0].item()
            for share in (0.0, 0.5, 1.0)
        )
        similarity = loss_ms_ssim(result.frame, source).item()
    rate = float(result.bits[0]) / 128**2
    assert full == pytest.approx(rate + CONFIG.highest_lambda * MS_SSIM_SCALE * (1 - similarity), rel=1e-5)
    assert half == pytest.approx((plain + full) / 2, rel=1e-5)
    assert abs(plain - full) > 0.01


def test_lambdas_lie_evenly_in_their_logarithm() -> None:
    weights = distortion_weights(CONFIG, 5)
    ratios = weights[1:] / weights[:-1]
    assert float(weights[0]) == pytest.approx(CONFIG.lowest_lambda)
    assert float(weights[-1]) == pytest.approx(CONFIG.highest_lambda)
    assert torch.allclose(ratios, ratios[0].expand(4))


def test_absent_side_information_has_no_influence(run: Run) -> None:
    codec = run.checkpoint().averaged_model()
    source, side = torch.rand(2, 1, 3, 32, 64)
    level = torch.tensor([1])
    with torch.no_grad():
        one, other = (codec(source, y, torch.zeros(1), level).frame for y in (side, 1 - side))
        seen = codec(source, side, torch.ones(1), level).frame
    assert torch.equal(one, other)
    assert not torch.equal(one, seen)


def test_useless_side_information_is_another_view_or_black_and_the_source_stays() -> None:
    frames = [np.full((40, 80, 3), value, np.uint8) for value in (40, 80, 120, 160)]
    pairs = [Pair(frames[0], frames[1]), Pair(frames[2], frames[3])]
    data = TrainingData(pairs, [], CPU)
    config = replace(CONFIG, batch_size=64, synthetic_share=0.0, faulty_share=1.0)
    samples = data.draw(config, 3, 0)
    assert all(sample.side for sample in samples)
    black = [sample.side.black for sample in samples if sample.side]
    assert 10 < sum(black) < 34
    others = [s for s in samples if s.side and s.side.pair != s.pair]
    assert 3 < len(others) < 25
    batch = data.batch(config, 3, 0)
    usual = data.batch(replace(config, faulty_share=0.0), 3, 0)
    dark = batch.side.amax((1, 2, 3)) == 0
    assert dark.tolist() == black
    # The first sample of a batch is drawn before any fault can move the draws after it.
    assert torch.equal(batch.source[0], usual.source[0])


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    frames = check_frames(render_drives(2, seed=9, width=160, height=80))
    checkpoint = replace(run.checkpoint(), facts={})
    return export(
        checkpoint, tmp_path_factory.mktemp("bundles") / "scalar", name="scalar", licence="MIT", frames=frames
    )[0]


@pytest.fixture(scope="module")
def int8_bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(
        replace(run.checkpoint(), facts={}),
        tmp_path_factory.mktemp("bundles") / "int8",
        name="scalar",
        licence="MIT",
        frames=check_frames(render_drives(2, seed=9, width=160, height=80)),
        int8=True,
    )[0]


def test_an_encoder_in_int8_speaks_the_same_bitstream(bundle: Bundle, int8_bundle: Bundle) -> None:
    assert int8_bundle.bitstream_id == bundle.bitstream_id
    assert int8_bundle.decoder_onnx == bundle.decoder_onnx
    kinds = [node.op_type for node in onnx.load_model_from_string(int8_bundle.encoder_onnx).graph.node]
    assert kinds.count("QuantizeLinear") > kinds.count("Gelu") > 0
    check = int8_bundle.manifest.training["export_check"]
    assert isinstance(check, dict)
    shares = check["int8_index_agreement"]
    assert isinstance(shares, list)
    assert len(shares) == 3
    assert all(isinstance(share, float) and 0.9 < share < 1 for share in shares)
    frame = render_drives(1, seed=9, width=160, height=80)[0].left[:77, :131]
    sent = FrameEncoder(int8_bundle).encode(frame, 2)
    assert sent.payload != FrameEncoder(bundle).encode(frame, 2).payload
    assert FrameDecoder(bundle).decode(sent).shape == frame.shape


def test_the_default_bundle_codes_as_the_released_weights_do() -> None:
    """Its encoder is the 8-bit one of `models/rate-distortion`, so a few indices differ by one."""
    codec = Checkpoint.load(Path(__file__).parents[2] / "models" / "rate-distortion").averaged_model()
    encoder = FrameEncoder(Bundle.load(default_bundle_path()))
    frame = render_drives(1, seed=0, width=256, height=128)[0].left
    for level in range(codec.config.levels):
        with torch.no_grad():
            graph = EncoderGraph(codec)
            wanted = graph(torch.from_numpy(to_float(frame))[None], torch.tensor([level]))[0].numpy()
        found = encoder.analyze(frame, level).stages
        assert np.abs(found - wanted).max() <= 1
        assert np.mean(found == wanted) > 0.97  # the finest steps, of the highest level, differ most


def test_the_bundle_trained_for_ms_ssim_has_more_of_it_for_as_many_bytes() -> None:
    pair = render_drives(1, seed=0, width=256, height=128)[0]

    def curve(bundle: Path, levels: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bytes and 1 − MS-SSIM, the logarithms of both."""
        encoder, decoder = FrameEncoder(Bundle.load(bundle)), FrameDecoder(Bundle.load(bundle))
        sent = [encoder.encode(pair.left, level) for level in levels]
        lost = [1 - ms_ssim(decoder.decode(one, pair.right), pair.left) for one in sent]
        return np.log([len(one.payload) for one in sent]), np.log(lost)

    rates, lost = curve(default_bundle_path(), (0, 2, 4, 6, 7))
    # level 0 is left out: there, on this drive, the two are as good as each other
    own_rates, own_lost = curve(Path(__file__).parents[2] / "models" / "ms-ssim", (2, 4, 5))
    assert rates[0] < own_rates[0] < own_rates[-1] < rates[-1]
    assert (own_lost < np.interp(own_rates, rates, lost) - 0.1).all()


def test_a_bundle_codes_at_every_level_what_training_promised(run: Run, bundle: Bundle) -> None:
    codec = run.checkpoint().averaged_model()
    pair = render_drives(1, seed=9, width=160, height=80)[0]
    source, side = pair.left[:64, :128], pair.right[:64, :128]
    x, y = (torch.from_numpy(to_float(frame))[None] for frame in (source, side))
    encoder, decoder = FrameEncoder(bundle), FrameDecoder(bundle)
    with torch.no_grad():
        points, features = codec.operating_points(x), codec.side_network(y)
    for level, point in enumerate(points):
        compressed = from_bytes(to_bytes(encoder.encode(source, level)))
        assert point.bits is not None
        assert 8 * len(compressed.payload) == pytest.approx(point.bits.item(), rel=0.02, abs=80)
        with torch.no_grad():
            expected = codec.decoder(point.latents, torch.tensor([level]), features, torch.ones(1))
        found = decoder.decode_float(compressed, side)
        assert np.abs(found.transpose(2, 0, 1) - expected[0].clamp(0, 1).numpy()).max() < 5e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (33, 57), (80, 160)])
def test_a_bundle_codes_frames_of_any_size(bundle: Bundle, height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    encoder, decoder = FrameEncoder(bundle), FrameDecoder(bundle)
    unpacked = [decoder.unpack(encoder.encode(frame, level)) for level in range(3)]
    assert [u.rate_level for u in unpacked] == [0, 1, 2]
    decoded = decoder.decode_batch(unpacked, [frame, None, frame])
    assert [d.shape for d in decoded] == [frame.shape] * 3


def test_indices_of_one_level_are_for_that_level(bundle: Bundle) -> None:
    encoder = FrameEncoder(bundle)
    indices = encoder.analyze(np.zeros((16, 16, 3), np.uint8), 1)
    assert indices.rate_level == 1
    assert encoder.pack(indices, 1).rate_level == 1
    for other in (0, 2):
        with pytest.raises(RateLevelError):
            encoder.pack(indices, other)


def test_the_bundle_is_of_format_2_and_its_golden_vectors_hold(bundle: Bundle) -> None:
    assert bundle.manifest.format_version == bundle.manifest.bitstream.format_version == 2
    assert isinstance(bundle.prior, ScalarPrior)
    bundle.golden.check(bundle.bitstream)
    assert {entry.rate_level for entry in bundle.golden.entries} == {0, 1, 2}
    assert {vector.error for vector in bundle.golden.damaged} == {"PayloadSizeError", "PayloadCorruptError"}


def test_a_checkpoint_keeps_the_settings_of_the_quantizer(run: Run, tmp_path: Path) -> None:
    run.facts = {}
    run.checkpoint().save(tmp_path / "checkpoint")
    loaded = Checkpoint.load(tmp_path / "checkpoint")
    assert loaded.model_config == MODEL
    assert isinstance(loaded.averaged_model(), ScalarCodec)


def test_a_new_run_starts_from_released_weights(run: Run, tmp_path: Path) -> None:
    """A released checkpoint is its averaged weights; a run cannot be continued from it, but started."""
    checkpoint = replace(run.checkpoint(), facts={})
    checkpoint.save(tmp_path / "released")
    for name in ("model", "optimizer"):
        (tmp_path / "released" / f"{name}.safetensors").unlink()
    released = Checkpoint.load(tmp_path / "released")
    fresh = Run(MODEL, replace(CONFIG, seed=1), CPU)
    fresh.start_from(released)
    assert fresh.step == 0
    for name, value in fresh.model.state_dict().items():
        assert torch.equal(value, checkpoint.averaged[name])
    relu = Run(replace(MODEL, encoder_activation="relu"), CONFIG, CPU)
    relu.start_from(released)  # the weights are of the same shapes
    assert all(torch.equal(value, checkpoint.averaged[name]) for name, value in relu.averaged.items())
    with pytest.raises(CheckpointError, match="no optimizer"):
        Run(MODEL, CONFIG, CPU).restore(released)
    with pytest.raises(CheckpointError, match="other settings"):
        Run(replace(MODEL, gate=False), CONFIG, CPU).start_from(released)
    (tmp_path / "released" / "averaged.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Checkpoint.load(tmp_path / "released")


def test_the_released_weights_gain_from_side_information_at_every_rate() -> None:
    """`models/rate-distortion` on a drive it was not trained on: real bytes of its prior, and the pictures."""
    released = Checkpoint.load(Path(__file__).parents[2] / "models" / "rate-distortion")
    codec = released.averaged_model()
    assert isinstance(codec, ScalarCodec)
    pair = render_drives(1, seed=0, width=256, height=128)[0]
    x, y = (torch.from_numpy(to_float(frame))[None] for frame in (pair.left, pair.right))
    prior, bound = codec.rate_model.prior(), codec.config.scalar.bound
    rates, gains = [], []
    with torch.no_grad():
        latents, features = codec.encoder(x), codec.side_network(y)
        for level in range(codec.config.levels):
            at = torch.tensor([level])
            quantized = codec.quantizer(latents, at)
            indices = quantized.indices[0].int().numpy() + bound
            planes, height, width = indices.shape
            coded = prior.encode(indices, level)
            assert np.array_equal(prior.decode(coded, planes, height, width, level), indices)
            rates.append(8 * len(coded) / (128 * 256))
            told = codec.rate_model(quantized, at).sum().item()
            assert 8 * len(coded) == pytest.approx(told, rel=0.02, abs=64)
            errors = [
                codec.decoder(quantized.latents, at, features, torch.tensor([there])).clamp(0, 1).sub(x)
                for there in (1.0, 0.0)
            ]
            right, none = (-10 * math.log10(e.square().mean().item()) for e in errors)
            gains.append(right - none)
    assert sorted(rates) == rates
    assert rates[0] < 0.3 * rates[-1]
    assert min(gains) > 0.5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_learns_once_at_its_own_rate(optimizer: OptimizerKind) -> None:
    config = replace(
        CONFIG,
        optimizer=optimizer,
        learning_rate=1e-3,
        muon_learning_rate=2e-3,
        gain_learning_rate=3e-3,
        rate_learning_rate=4e-3,
    )
    run = Run(MODEL, config, CPU)
    groups = [group for one in run.optimizers for group in one.param_groups]
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    assert isinstance(run.model, ScalarCodec)
    expected = {id(p): 1e-3 for p in run.model.parameters()}
    if optimizer == "muon":
        expected |= {id(m.weight): 2e-3 for m in run.model.modules() if isinstance(m, Pointwise)}
    expected |= {id(p): 3e-3 for p in run.model.quantizer.parameters()}
    expected |= {id(p): 4e-3 for p in run.model.rate_model.parameters()}
    assert rates == expected
    data = TrainingData([], render_drives(1, seed=5, width=160, height=80), CPU)
    run.train_step(data.batch(config, run.levels, 0))
    for group in groups:  # the first of four steps that warm up
        assert group["lr"] == pytest.approx(group["initial_lr"] / 4)


def test_a_checkpoint_of_before_goes_on_as_it_was() -> None:
    """Gains and rate model had AdamW's rate then: with today's the run would be another one."""
    before = replace(CONFIG, gain_learning_rate=CONFIG.learning_rate, rate_learning_rate=CONFIG.learning_rate)
    kept = before.to_dict()
    del kept["gain_learning_rate"], kept["rate_learning_rate"]
    assert TrainConfig.from_dict(kept) == before != CONFIG
