"""Export a checkpoint to a bundle: `python -m training.export CHECKPOINT -o BUNDLE`.

The bundle is the only thing training hands to the services. Both graphs take any frame size that is a multiple of
the stride (the codec pads) and any batch; before anything is written, torch and onnxruntime are compared on
frames, and the export is refused when they disagree by more than the tolerances below.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import typer
from torch import Tensor, nn

from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.errors import BundleError, NdscError
from ndsc.codec.frames import Geometry, pad, to_float
from ndsc.codec.prior import LatentPrior, StaticPrior
from ndsc.codec.runtime import DecoderSession, EncoderSession
from ndsc.evaluate.protocols import kitti128
from training.checkpoint import Checkpoint
from training.data import Frame, Pair, load_pairs, render_drives
from training.int8 import calibration_frames, in_int8
from training.scalar import ScalarQuantizer
from training.scalar_codec import Codec, ScalarCodec

OPSET = 20
"""The first with GELU as one operator; spelt out in five, it cost the encoder a third of its time."""
IR_VERSION = 10
"""Read by every onnxruntime since 1.18."""
MAX_SIDE = 2048
MAX_PIXELS = 1 << 21
"""2^21 pixels hold 1920x1088. The largest frame, 2048x1024, takes 1.9 GB to decode, most of it row attention."""

MIN_INDEX_AGREEMENT = 0.999
"""Share of indices on which torch and onnxruntime must agree. A difference is a latent that lies, to the last
float bit, between two code vectors: the picture does not suffer, since the indices sent are the ones used."""
MIN_INT8_AGREEMENT = 0.95
"""Share of indices, at every level, on which the 8-bit encoder must agree with the one in floats: the others are
off by one and cost bytes (the released one agrees on over 0.99)."""
MAX_FRAME_DIFFERENCE = 2e-3
"""Largest difference of any decoded value between torch and onnxruntime, on a 0..1 scale: half a grey level."""


class EncoderGraph(nn.Module):
    """`frame` float32 [B, 3, H, W] in [0, 1] → `indices` int32 [B, S, H/8, W/8], every stage.

    A scalar codec also takes `rate_level` int64 [B]; its indices are the whole numbers plus the bound.
    """

    def __init__(self, model: Codec) -> None:
        super().__init__()
        self.encoder, self.quantizer = model.encoder, model.quantizer

    def forward(self, frame: Tensor, rate_level: Tensor | None = None) -> Tensor:
        """Indices of a frame."""
        latents = self.encoder(frame)
        if isinstance(self.quantizer, ScalarQuantizer):
            numbers: Tensor = self.quantizer(latents, rate_level).indices
            return (numbers + self.quantizer.config.bound).to(torch.int32)
        indices: Tensor = self.quantizer(latents).indices
        return indices.to(torch.int32)


class DecoderGraph(nn.Module):
    """`indices`, `rate_level`, `side_information`, `side_present` → `frame` float32 [B, 3, H, W] in [0, 1]."""

    def __init__(self, model: Codec) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, indices: Tensor, rate_level: Tensor, side_information: Tensor, side_present: Tensor
    ) -> Tensor:
        """The decoded frame; stages past the level are ignored, y too where `side_present` is 0."""
        quantizer = self.model.quantizer
        if isinstance(quantizer, ScalarQuantizer):
            latents = quantizer.lookup(indices - quantizer.config.bound, rate_level)
        else:
            latents = quantizer.lookup(indices.to(torch.int64), rate_level + 1)
        features = self.model.side_network(side_information)
        decoded: Tensor = self.model.decoder(latents, rate_level, features, side_present)
        return decoded.clamp(0, 1)


@dataclass(frozen=True)
class Agreement:
    """How far onnxruntime and torch agree over the frames compared."""

    frames: int
    indices: int
    index_agreement: float
    """Share of equal indices."""
    max_frame_difference: float
    """On decoded values in [0, 1]."""


def _onnx_bytes(
    graph: nn.Module,
    arguments: tuple[Tensor, ...],
    input_names: list[str],
    output_name: str,
    dynamic_shapes: tuple[dict[int, Any], ...],
) -> bytes:
    """Export with the dynamo exporter, any batch and any multiple of the stride."""
    with warnings.catch_warnings():
        # Of the exporter's own making: its torchvision is absent, its axis names repeat, its pytree is old.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.eval(),
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=[output_name],
            dynamic_shapes=dynamic_shapes,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graph.onnx"
        program.save(path)
        model = onnx.load(path)
    model.ir_version = IR_VERSION
    # Source locations of the exporting machine tell a user nothing and make the file differ by checkout.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    onnx.checker.check_model(model)
    return model.SerializeToString()


def export_graphs(model: Codec) -> tuple[bytes, bytes]:
    """(encoder.onnx, decoder.onnx) of a codec in evaluation mode."""
    stride, stages = model.config.stride, model.config.stages
    batch, rows, columns = (torch.export.Dim(name, min=1, max=512) for name in ("batch", "rows", "columns"))
    frame = torch.rand(2, 3, 5 * stride, 7 * stride)
    indices = torch.zeros(2, stages, 5, 7, dtype=torch.int32)
    of_frame = {0: batch, 2: stride * rows, 3: stride * columns}
    levels = torch.zeros(2, dtype=torch.int64)
    by_level = isinstance(model, ScalarCodec)
    encoder = _onnx_bytes(
        EncoderGraph(model),
        (frame, levels) if by_level else (frame,),
        ["frame", "rate_level"] if by_level else ["frame"],
        "indices",
        (of_frame, {0: batch}) if by_level else (of_frame,),
    )
    decoder = _onnx_bytes(
        DecoderGraph(model),
        (indices, levels, frame, torch.ones(2)),
        ["indices", "rate_level", "side_information", "side_present"],
        "frame",
        ({0: batch, 2: rows, 3: columns}, {0: batch}, of_frame, {0: batch}),
    )
    return encoder, decoder


@torch.no_grad()
def compare(
    model: Codec, encoder_onnx: bytes, decoder_onnx: bytes, pairs: list[tuple[Frame, Frame]]
) -> Agreement:
    """Run torch and onnxruntime on each pair: indices of the source, then the frame decoded from torch's indices
    at every level, with side information and without."""
    by_level = isinstance(model, ScalarCodec)
    encoder, decoder = EncoderSession(encoder_onnx, by_level=by_level), DecoderSession(decoder_onnx)
    equal = total = 0
    worst = 0.0
    for source, side in pairs:
        x, y = (to_float(pad(frame, model.config.stride))[None] for frame in (source, side))
        for level in range(model.config.levels):
            at = np.array([level], np.int64)
            if by_level or level == 0:
                ours = EncoderGraph(model)(torch.from_numpy(x), torch.from_numpy(at))
                theirs = encoder.run(x, at)
                equal += int((ours.numpy() == theirs).sum())
                total += theirs.size
            for present in (1.0, 0.0):
                there = np.array([present], np.float32)
                expected = DecoderGraph(model)(
                    ours, torch.from_numpy(at), torch.from_numpy(y), torch.from_numpy(there)
                )
                got = decoder.run(ours.numpy(), at, y, there)
                worst = max(worst, float(np.abs(expected.numpy() - got).max()))
    return Agreement(len(pairs), total, equal / total, worst)


def index_agreement(
    encoder: EncoderSession, other: EncoderSession, frames: Sequence[Frame], stride: int, levels: int
) -> list[float]:
    """Share of indices of `frames` that two encoders have in common, at each level."""
    shares = []
    for level in range(levels):
        at, equal = np.array([level], np.int64), []
        for frame in frames:
            x = to_float(pad(frame, stride))[None]
            equal.append(np.mean(encoder.run(x, at) == other.run(x, at)))
        shares.append(round(float(np.mean(equal)), 4))
    return shares


def static_prior(checkpoint: Checkpoint) -> StaticPrior:
    """The frequency tables from the index counts of training batches. Raises BundleError without counts."""
    counts = checkpoint.facts.get("index_counts")
    if not counts:
        raise BundleError("the checkpoint has no index counts: train it to a validation step first")
    return StaticPrior.from_counts([np.asarray(c, dtype=np.int64) for c in counts])


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in module.parameters())


def export(
    checkpoint: Checkpoint,
    output: Path,
    *,
    name: str,
    licence: str,
    frames: list[tuple[Frame, Frame]],
    int8: bool = False,
) -> tuple[Bundle, Agreement]:
    """Write the bundle of `checkpoint` to the directory `output`, after comparing on `frames` (source, side).

    With `int8` the encoder that is written computes in 8-bit integers. The agreement with torch is that of the one
    in floats, with which the other is compared in turn.

    Raises BundleError when torch and onnxruntime disagree beyond the tolerances.
    """
    model = checkpoint.averaged_model()
    prior: LatentPrior
    if isinstance(model, ScalarCodec):
        prior = model.rate_model.prior()
        rate_levels = [model.config.stages] * model.config.levels
    else:
        prior, rate_levels = static_prior(checkpoint), [i + 1 for i in range(model.config.levels)]
    encoder_onnx, decoder_onnx = export_graphs(model)
    agreement = compare(model, encoder_onnx, decoder_onnx, frames)
    if (
        agreement.index_agreement < MIN_INDEX_AGREEMENT
        or agreement.max_frame_difference > MAX_FRAME_DIFFERENCE
    ):
        raise BundleError(f"torch and onnxruntime disagree, nothing is written: {agreement}")
    check: dict[str, Any] = {**asdict(agreement), "onnxruntime": onnxruntime.__version__}
    if int8:
        by_level = isinstance(model, ScalarCodec)
        floats = EncoderSession(encoder_onnx, by_level=by_level)
        encoder_onnx = in_int8(encoder_onnx, calibration_frames())
        check["int8_index_agreement"] = index_agreement(
            floats,
            EncoderSession(encoder_onnx, by_level=by_level),
            [source for source, _ in frames],
            model.config.stride,
            model.config.levels if by_level else 1,
        )
        if min(check["int8_index_agreement"]) < MIN_INT8_AGREEMENT:
            raise BundleError(
                f"the encoder in 8-bit integers agrees on too few indices, nothing is written: {check}"
            )
    facts = {
        "model": checkpoint.model_config.to_dict(),
        "train": checkpoint.train_config.to_dict(),
        "steps": checkpoint.step,
        "parameters": {
            "encoder": parameter_count(model.encoder),
            "decoder": parameter_count(model.decoder),
            "side_network": parameter_count(model.side_network),
            **({"rate_model": parameter_count(model.rate_model)} if isinstance(model, ScalarCodec) else {}),
        },
        "export_check": check,
        **{k: v for k, v in checkpoint.facts.items() if k != "index_counts"},
    }
    bundle = write_bundle(
        output,
        name=name,
        encoder_onnx=encoder_onnx,
        decoder_onnx=decoder_onnx,
        prior=prior,
        geometry=Geometry(model.config.stride, MAX_SIDE, MAX_PIXELS),
        rate_levels=rate_levels,
        training=facts,
        licence=licence,
        opset=OPSET,
        ir_version=IR_VERSION,
    )
    return bundle, agreement


def check_frames(pairs: list[Pair]) -> list[tuple[Frame, Frame]]:
    """Frames to compare on: whole, an odd crop, and the smallest; and two that are hard on arithmetic."""
    frames = []
    for index, pair in enumerate(pairs):
        views = (pair.left, pair.right)
        if index % 2 and min(pair.left.shape[:2]) >= 370 and pair.left.shape[1] >= 740:
            views = (kitti128(pair.left), kitti128(pair.right))
        frames.append(views)
    left, right = pairs[0].left, pairs[0].right
    frames += [(left[:77, :131], right[:77, :131]), (left[:8, :8], right[:8, :8])]
    flat: npt.NDArray[np.uint8] = np.full((128, 256, 3), 90, np.uint8)
    frames += [(flat, flat), (np.zeros_like(flat), flat)]
    return frames


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory of training.train.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle directory to write.")],
    pairs: Annotated[
        list[Path] | None,
        typer.Option(help="Pairs to compare torch and onnxruntime on; the synthetic drive without."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name for people; the output's by default.")] = None,
    int8: Annotated[
        bool, typer.Option(help="The encoder in 8-bit integers: about twice the speed, under 1 % more bytes.")
    ] = False,
    licence: Annotated[str, typer.Option(help="SPDX identifier that the weights carry.")] = "CC-BY-NC-SA-3.0",
) -> None:
    """Write a bundle that the services can load."""
    loaded = Checkpoint.load(checkpoint)
    real = [pair for directory in pairs or [] for pair in load_pairs([directory])]
    compared = real or render_drives(4, seed=0, width=256, height=128)
    bundle, agreement = export(
        loaded,
        output,
        name=name or output.name,
        licence=licence,
        frames=check_frames(compared),
        int8=int8,
    )
    print(
        f"compared on {agreement.frames} frames: {100 * agreement.index_agreement:.4f} % of "
        f"{agreement.indices} indices agree, decoded values differ by {agreement.max_frame_difference:.1e} "
        f"at most ({255 * agreement.max_frame_difference:.3f} grey levels)"
    )
    check = bundle.manifest.training["export_check"]
    if int8 and isinstance(check, dict):
        print(
            f"indices of the 8-bit encoder that are those in floats, by level: {check['int8_index_agreement']}"
        )
    size = math.fsum((output / file).stat().st_size for file in bundle.manifest.files) / 1e6
    print(f"{output}: bundle {bundle.bundle_id[:16]}, bitstream {bundle.bitstream_id.hex()}, {size:.1f} MB")
    if loaded.model_config.quantizer == "scalar" and not loaded.finished:
        print("its rate model is as trained, at noise: training.finish before this command takes bytes off")


if __name__ == "__main__":
    try:
        typer.run(main)
    except NdscError as error:
        sys.exit(f"error: {error}")
