"""Bundles, picture codecs and video codecs on the same pictures: real bytes, decoded and measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import GeometryError
from ndsc.codec.files import write_whole
from ndsc.codec.frames import Frame, read_image
from ndsc.codec.runtime import RuntimeOptions
from ndsc.evaluate import PROTOCOLS, SideInformation, evaluate, list_pairs, ms_ssim, ms_ssim_min_side, psnr
from training.report.codecs import PictureCodec, library_versions
from training.report.lpips import LPIPS
from training.report.measurement import Measurement
from training.report.video import VideoCodec

Make = Callable[[], list[Measurement]]

SIDE_INFORMATION: Final[tuple[SideInformation, ...]] = ("right", "none", "wrong")
_FORMAT: Final = 1
"""Of the parts; a higher one measures them again."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Sources of one protocol, in the order of their pairs."""

    directories: tuple[Path, ...]
    protocol: str
    names: tuple[str, ...]
    """Folder and name of each."""
    frames: tuple[Frame, ...]
    fingerprint: str
    """Of the names and both files of every pair, and the protocol."""

    @classmethod
    def load(cls, directories: Sequence[Path], protocol: str) -> Pictures:
        """The left frames of all pairs below `directories`.

        Raises PairsError, ImageError, and GeometryError for a frame too small for the protocol.
        """
        names, frames = [], []
        digest = hashlib.sha256(protocol.encode())
        for directory in directories:
            for pair in list_pairs(directory):
                names.append(f"{directory.name}/{pair.name}")
                digest.update(names[-1].encode() + pair.left.read_bytes() + pair.right.read_bytes())
                try:
                    frames.append(PROTOCOLS[protocol](read_image(pair.left)))
                except GeometryError as error:
                    raise GeometryError(f"{pair.left}: {error}") from error
        return cls(tuple(directories), protocol, tuple(names), tuple(frames), digest.hexdigest())


def measured(
    codec: str,
    setting: str,
    name: str,
    source: Frame,
    output: Frame,
    sizes: tuple[int, int],
    lpips: LPIPS | None,
) -> Measurement:
    """The figures of one 8-bit output; `sizes` are the bytes of the file and of the codec's floor."""
    height, width = source.shape[:2]
    return Measurement(
        codec=codec,
        setting=setting,
        image=name,
        pixels=height * width,
        coded_bytes=sizes[0],
        floor_bytes=sizes[1],
        psnr_db=psnr(source, output),
        psnr_float_db=None,
        ms_ssim=ms_ssim(source, output) if min(height, width) >= ms_ssim_min_side() else None,
        lpips=lpips(source, output) if lpips else None,
    )


def measure_pictures(codec: PictureCodec, pictures: Pictures, lpips: LPIPS | None) -> list[Measurement]:
    """Every picture at every step of the codec's ladder."""
    floors: dict[tuple[int, ...], int] = {}
    rows = []
    for name, frame in zip(pictures.names, pictures.frames, strict=True):
        if frame.shape not in floors:
            floors[frame.shape] = codec.floor_bytes(*frame.shape[:2])
        for step in codec.ladder:
            data = codec.encode(frame, step)
            sizes = len(data), floors[frame.shape]
            rows.append(
                measured(codec.name, codec.label(step), name, frame, codec.decode(data), sizes, lpips)
            )
    return rows


def measure_video(codec: VideoCodec, pictures: Pictures, lpips: LPIPS | None) -> list[Measurement]:
    """The pictures as frames of one video, at every QP; a frame's bytes are those of its packet."""
    rows = []
    for qp in codec.ladder:
        coded = codec.code(pictures.frames, qp)
        outputs = zip(pictures.names, pictures.frames, coded.packet_bytes, coded.frames, strict=True)
        rows += [
            measured(codec.name, f"QP {qp}", name, source, output, (size, 0), lpips)
            for name, source, size, output in outputs
        ]
    return rows


def bundle_label(path: Path, side_information: SideInformation) -> str:
    """What a bundle's curve is called: its folder's name and what the decoder sees."""
    return f"ndsc {path.name}, {side_information}"


def measure_bundle(
    bundle: Bundle, pictures: Pictures, side_information: SideInformation, threads: int, lpips: LPIPS | None
) -> list[Measurement]:
    """Every picture at every rate level, by `ndsc.evaluate`."""
    distances: list[float | None] = []

    def outputs(source: Frame, output: Frame) -> None:
        distances.append(lpips(source, output) if lpips else None)

    result = evaluate(
        bundle,
        pictures.directories,
        frame_bytes=_payload_bytes,
        protocol=pictures.protocol,
        side_information=side_information,
        options=RuntimeOptions(threads=threads),
        outputs=outputs,
    )
    levels = len(result.points)
    rows = []
    for number, (name, frame) in enumerate(zip(pictures.names, pictures.frames, strict=True)):
        pixels = frame.shape[0] * frame.shape[1]
        for point in result.points:
            image = point.images[number]
            rows.append(
                Measurement(
                    codec=bundle_label(bundle.path, side_information),
                    setting=f"level {point.rate}",
                    image=name,
                    pixels=pixels,
                    coded_bytes=round(image.payload_bpp * pixels / 8),
                    floor_bytes=0,
                    psnr_db=image.psnr,
                    psnr_float_db=image.psnr_float,
                    ms_ssim=image.ms_ssim,
                    lpips=distances[number * levels + point.rate],
                )
            )
    return rows


def _payload_bytes(frame: CompressedFrame) -> int:
    # The message around a payload is the wire's business; here its size is not used.
    return len(frame.payload)


@dataclass
class Parts:
    """Measurements kept in a folder, so that a report that was broken off goes on where it was."""

    directory: Path
    seconds: float = 0.0
    """What the parts given so far took to measure, whenever that was."""

    def get(self, name: str, depends_on: dict[str, Any], make: Make) -> list[Measurement]:
        """The measurements of part `name`; made again when anything that they depend on is another."""
        facts = {"format": _FORMAT, "libraries": library_versions(), "numpy": np.__version__, **depends_on}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        stem = "".join(c if c.isalnum() else "-" for c in name.lower())
        path = self.directory / f"{stem}-{key[:12]}.json"
        if not path.exists():
            started = perf_counter()
            rows = [asdict(row) for row in make()]
            part = {"seconds": perf_counter() - started, "measurements": rows}
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(part).encode())
        kept = json.loads(path.read_text())
        self.seconds += kept["seconds"]
        return [Measurement(**row) for row in kept["measurements"]]
