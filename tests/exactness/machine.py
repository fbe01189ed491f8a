"""What a process runs on: facts that go beside its result."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Final

from ndsc.codec import entropy, range_coder

_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu", "numpy", "constriction", "google-crc32c", "torch")
# Those that choose the instructions of a convolution.
_FEATURES: Final = (
    *("sse4_2", "fma", "avx", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)


def facts() -> dict[str, object]:
    """Platform, processor and versions of this process."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    pure = isinstance(entropy.decoder(b""), range_coder.Decoder)
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        **_processor(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "range_coder": "pure Python" if pure else "constriction",
    }


def _processor() -> dict[str, object]:
    """Its name and the instruction sets it says it has, where Linux tells."""
    # An emulator shows the host's file; its fields then are another architecture's.
    fields_of = {"x86_64": ("model name", "flags"), "aarch64": ("CPU part", "Features")}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name, features = fields_of[platform.machine()]
    except (OSError, KeyError):
        return {}
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if features not in fields:
        return {}
    has = fields[features].split()
    return {"processor": fields.get(name, ""), "features": [one for one in _FEATURES if one in has]}
