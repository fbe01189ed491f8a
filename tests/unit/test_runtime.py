"""onnxruntime sessions: the provider asked for or an error, and graphs that keep the contract."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
import onnxruntime
import pytest

from ndsc.codec import runtime
from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import BundleError, ProviderError
from ndsc.codec.runtime import DecoderSession, EncoderSession, RuntimeOptions


def test_encoder_contract(tiny_bundle: Bundle) -> None:
    session = EncoderSession(tiny_bundle.encoder_onnx)
    assert session.provider == "CPUExecutionProvider"
    frames = np.zeros((2, 3, 16, 24), np.float32)
    frames[1] = 1
    indices = session.run(frames)
    assert indices.dtype == np.int32
    assert indices.shape == (2, 3, 2, 3)
    assert [stage.max() for stage in indices[0]] == [0, 0, 0]
    assert [stage.min() for stage in indices[1]] == [15, 7, 3]


def test_decoder_ignores_what_was_not_sent_or_is_not_there(tiny_bundle: Bundle) -> None:
    session = DecoderSession(tiny_bundle.decoder_onnx, RuntimeOptions(threads=1))
    indices = np.full((2, 3, 1, 1), 3, np.int32)
    side = np.ones((2, 3, 8, 8), np.float32)
    frames = session.run(indices, np.array([0, 2]), side, np.array([0, 1], np.float32))
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames[0, :, 0, 0], [3.5 / 16, 0, 0])
    np.testing.assert_allclose(frames[1, :, 7, 7], np.array([3.5 / 16, 3.5 / 8, 3.5 / 4]) + 0.125)


def test_options_are_checked() -> None:
    with pytest.raises(ProviderError, match="cpu, cuda"):
        RuntimeOptions(provider="tpu")  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match="-1 threads"):
        RuntimeOptions(threads=-1)


def test_an_absent_provider_is_an_error(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="CUDAExecutionProvider is not in this build"):
        EncoderSession(tiny_bundle.encoder_onnx, RuntimeOptions(provider="cuda"))


def test_a_silent_fallback_is_an_error(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime-gpu does without a driver: it lists CUDA and gives a CPU session."""
    real_session = onnxruntime.InferenceSession

    def falls_back(data: bytes, settings: Any, providers: list[str]) -> Any:
        assert providers == ["CUDAExecutionProvider"]
        return real_session(data, settings, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(ProviderError, match=r"CUDA.* was asked for and CPU.* came"):
        DecoderSession(tiny_bundle.decoder_onnx, RuntimeOptions(provider="cuda"))


def test_two_builds_of_onnxruntime_are_an_error(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.check_installation()
    monkeypatch.setattr(metadata, "distribution", lambda name: name)
    with pytest.raises(ProviderError, match="uninstall both"):
        EncoderSession(tiny_bundle.encoder_onnx)


@pytest.mark.parametrize("data", [b"", b"not a graph", bytes(100)])
def test_bytes_that_are_no_graph(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"encoder.onnx cannot be loaded") as caught:
        EncoderSession(data)
    assert "\n" not in str(caught.value)


def test_graphs_in_each_others_place(tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"encoder.onnx must map frame to indices"):
        EncoderSession(tiny_bundle.decoder_onnx)
    with pytest.raises(BundleError, match=r"decoder.onnx must map indices, rate_level"):
        DecoderSession(tiny_bundle.encoder_onnx)


def test_a_failed_run_is_one_clear_line(tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    session = EncoderSession(tiny_bundle.encoder_onnx)
    with pytest.raises(ProviderError, match=r"CPUExecutionProvider cannot run encoder.onnx") as caught:
        session.run(np.zeros((1, 3, 9, 8), np.float32))  # no whole strides
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
