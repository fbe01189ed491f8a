"""onnxruntime sessions for the two graphs of a bundle: the provider asked for, or an error."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ndsc.codec.errors import BundleError, ProviderError

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class RuntimeOptions:
    """How the graphs run."""

    provider: Literal["cpu", "cuda"] = "cpu"
    """The execution provider; it is never replaced by another one in silence."""
    threads: int = 0
    """CPU threads for one graph; 0 takes one for each physical core."""

    def __post_init__(self) -> None:
        if self.provider not in _PROVIDERS:
            raise ProviderError(
                f"no execution provider {self.provider!r}; use one of {', '.join(_PROVIDERS)}"
            )
        if self.threads < 0:
            raise ProviderError(f"a graph cannot run on {self.threads} threads; 0 takes one for each core")


def check_installation() -> None:
    """Raise ProviderError when both builds of onnxruntime are installed: which one answers is then chance."""
    installed = []
    for distribution in ("onnxruntime", "onnxruntime-gpu"):
        try:
            metadata.distribution(distribution)
        except metadata.PackageNotFoundError:
            continue
        installed.append(distribution)
    if len(installed) > 1:
        raise ProviderError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall both, "
            "then install the one you need"
        )


class _Session:
    """One graph. `run` may be called from several threads at once."""

    def __init__(
        self, name: str, onnx_bytes: bytes, options: RuntimeOptions, inputs: tuple[str, ...], output: str
    ) -> None:
        check_installation()
        wanted = _PROVIDERS[options.provider]
        if wanted not in onnxruntime.get_available_providers():
            raise ProviderError(
                f"{wanted} is not in this build of onnxruntime; install onnxruntime-gpu in its place, "
                "or ask for the cpu provider"
            )
        if options.provider == "cuda":
            onnxruntime.preload_dlls()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.log_severity_level = 4  # errors come as exceptions, once
        # Threads that spin between runs take the core from whoever works next. Measured with encoder and
        # decoder on two shared cores: without spinning, half the CPU time a run, less than half the latency.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A planned block for each input size comes on top of what the first run of that size took. Measured at
        # 2048x1024: 3.1 GB with the plan, 1.8 GB without, and the same CPU time.
        settings.enable_mem_pattern = False
        try:
            self._session: Any = onnxruntime.InferenceSession(onnx_bytes, settings, providers=[wanted])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise BundleError(f"{name} cannot be loaded: {_first_line(error)}") from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider != wanted:
            raise ProviderError(
                f"{wanted} was asked for and {self.provider} came; check the driver and the CUDA libraries"
            )
        found = {i.name for i in self._session.get_inputs()}, [o.name for o in self._session.get_outputs()]
        if found != (set(inputs), [output]):
            raise BundleError(
                f"{name} must map {', '.join(inputs)} to {output}, not {sorted(found[0])} to {found[1]}"
            )
        self._name = name
        self._output = output

    def _run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        try:
            result: NDArray[Any] = self._session.run([self._output], inputs)[0]
        except Exception as error:
            raise ProviderError(f"{self.provider} cannot run {self._name}: {_first_line(error)}") from error
        return result


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class EncoderSession(_Session):
    """`encoder.onnx`: input `frame`, and `rate_level` where levels have indices of their own; output `indices`.

    Raises ProviderError when the provider is not there, BundleError when the graph cannot be loaded or has
    other inputs and outputs.
    """

    def __init__(
        self, onnx_bytes: bytes, options: RuntimeOptions = RuntimeOptions(), *, by_level: bool = False
    ) -> None:
        inputs = ("frame", "rate_level") if by_level else ("frame",)
        super().__init__("encoder.onnx", onnx_bytes, options, inputs, "indices")
        self._by_level = by_level

    def run(
        self, frames: NDArray[np.float32], rate_level: NDArray[np.int64] | None = None
    ) -> NDArray[np.int32]:
        """float32 [B, 3, H, W] in [0, 1], H and W whole strides → int32 [B, S, h, w], all S stages.

        `rate_level` int64 [B], 0 when None, counts where levels have indices of their own.
        """
        if not self._by_level:
            return self._run({"frame": frames})
        levels = np.zeros(len(frames), np.int64) if rate_level is None else rate_level
        return self._run({"frame": frames, "rate_level": levels})


class PriorSession(_Session):
    """One pass of `prior.onnx`. Its integers must be exact, so it runs on the CPU, which has been proved; and each
    pass on one thread: an encoder runs several side by side instead.

    Raises like EncoderSession.
    """

    def __init__(self, onnx_bytes: bytes, name: str, inputs: tuple[str, ...]) -> None:
        super().__init__(
            f"prior.onnx ({name})", onnx_bytes, RuntimeOptions("cpu", threads=1), inputs, f"{name}.sums"
        )

    def run(self, feeds: dict[str, NDArray[np.int32]]) -> NDArray[np.float32]:
        """int32 labels and bands → sums, whole numbers in float32 [phases · B, logits, rows, columns]."""
        return self._run(dict(feeds))


class DecoderSession(_Session):
    """`decoder.onnx`: inputs `indices`, `rate_level`, `side_information`, `side_present`, output `frame`.

    Raises like EncoderSession.
    """

    def __init__(self, onnx_bytes: bytes, options: RuntimeOptions = RuntimeOptions()) -> None:
        super().__init__(
            "decoder.onnx",
            onnx_bytes,
            options,
            ("indices", "rate_level", "side_information", "side_present"),
            "frame",
        )

    def run(
        self,
        indices: NDArray[np.int32],
        rate_level: NDArray[np.int64],
        side_information: NDArray[np.float32],
        side_present: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Decode a batch.

        Args:
            indices: int32 [B, S, h, w]; stages beyond a sample's level are ignored, fill them with 0.
            rate_level: int64 [B].
            side_information: float32 [B, 3, H, W] in [0, 1]; ignored where there is none.
            side_present: float32 [B], 1 with side information and 0 without.

        Returns:
            float32 [B, 3, H, W], not clipped.
        """
        return self._run(
            {
                "indices": indices,
                "rate_level": rate_level,
                "side_information": side_information,
                "side_present": side_present,
            }
        )
