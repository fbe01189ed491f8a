"""Fixtures that most tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.frames import Frame
from tests import tiny_bundle as tiny
from tests.unit import context_prior


@pytest.fixture(scope="session")
def tiny_parts() -> dict[str, Any]:
    """Keyword arguments of `write_bundle` for the tiny bundle; change a copy to make another."""
    return tiny.parts()


@pytest.fixture(scope="session")
def tiny_bundle(tiny_parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of fixed maps: the output depends on indices, level and y. Its directory is `.path`."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", **tiny_parts)


@pytest.fixture(scope="session")
def tiny_bundle_path(tiny_bundle: Bundle) -> Path:
    """The tiny bundle's directory."""
    return tiny_bundle.path


@pytest.fixture(scope="session")
def context_bundle(tiny_parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a context prior, for whose codebooks the encoder is changed."""
    encoder = onnx.load_from_string(tiny_parts["encoder_onnx"])
    (highest,) = (one for one in encoder.graph.initializer if one.name == "highest")
    sizes = np.array(context_prior.CODEBOOK_SIZES, np.float32).reshape(1, -1, 1, 1)
    highest.CopyFrom(numpy_helper.from_array(sizes - 1, "highest"))
    other = {
        "name": "context",
        "encoder_onnx": encoder.SerializeToString(),
        "prior": context_prior.tiny_prior(),
    }
    return write_bundle(tmp_path_factory.mktemp("bundles") / "context", **(tiny_parts | other))


@pytest.fixture
def noise_frame() -> Frame:
    """uint8 [37, 61, 3]: no whole strides, every pixel different."""
    return np.random.default_rng(7).integers(0, 256, (37, 61, 3), dtype=np.uint8)
