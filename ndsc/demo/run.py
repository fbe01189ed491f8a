"""The demo's course: start the services, stream, measure, report.

left node ── relay (counts bytes) ──→ decoder ──→ this process (Subscribe, then Decode)
right node ──────────────────────────→ (side information)
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ndsc.client import Client, SubscribedFrame
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.files import write_whole
from ndsc.codec.frames import Frame, encode_image
from ndsc.demo.picture import Panel, compose, mended, ordinary
from ndsc.demo.processes import ServiceProcess, running
from ndsc.demo.relay import relaying
from ndsc.evaluate.metrics import psnr
from ndsc.evaluate.pairs import list_pairs
from ndsc.sources import open_source

START_TIMEOUT_S = 60.0
RIG = "demo"
MAX_FPS = 10.0
LOAD = 0.5
"""Share of the machine's measured speed that the stream asks for; pictures and the user need the rest."""


@dataclass(frozen=True)
class FrameRecord:
    """What the demo measured of one frame."""

    frame: int
    payload_bytes: int
    frame_bytes: int
    """The protobuf message."""
    payload_bpp: float
    psnr: float
    """dB, decoded with side information as streamed."""
    psnr_without: float
    """dB, the same bytes decoded without."""
    side_information: str
    latency_ms: float
    """From capture to the picture in this process."""
    decode_ms: float
    """From arrival at the decoder to the picture, the wait for side information included."""


def run_demo(
    pairs: Path | None, *, frames: int, rate_level: int, bundle_path: Path, output: Path, console: Console
) -> None:
    """Stream `frames` left frames of `pairs`, or of the synthetic drive, and write demo.json and demo.png.

    Raises PairsError, BundleError, RateLevelError, ProcessError or ServiceError, each with one line that says
    what to do.
    """
    bundle = Bundle.load(bundle_path)
    bundle.stages_sent(rate_level)
    if pairs is not None:
        frames = min(frames, len(list_pairs(pairs)))
    sources = {view: str(pairs / view) if pairs else f"synthetic:{view}" for view in ("left", "right")}
    with ExitStack() as stack:
        started = time.monotonic()
        with console.status("starting the decoder"):
            decoder = stack.enter_context(
                running(
                    "decoder_service",
                    [
                        "--listen",
                        "127.0.0.1:0",
                        "--bundle",
                        str(bundle_path),
                        "--pair-wait-ms",
                        "5000",
                        "--subscriber-queue-frames",
                        str(min(frames, 1024)),
                    ],
                )
            )
            decoder_port = decoder.wait_for("ready", START_TIMEOUT_S)["port"]
        start_s = time.monotonic() - started
        relay = stack.enter_context(relaying(decoder_port))
        client = stack.enter_context(Client(f"127.0.0.1:{decoder_port}"))
        fps = _sustainable_fps(client, bundle, sources, rate_level)
        epoch_s = math.ceil(time.time() + max(3.0, 2 * start_s))
        common = [
            "--rig",
            RIG,
            "--listen",
            "127.0.0.1:0",
            "--epoch",
            str(epoch_s),
            "--fps",
            repr(fps),
            "--limit",
            str(frames),
            "--queue-frames",
            str(min(frames, 1024)),
            "--bundle",
            str(bundle_path),
        ]
        stream = client.subscribe(RIG, cameras=["left"], include_compressed=True)
        stack.enter_context(
            running(
                "encoder_service",
                [
                    *common,
                    "--role",
                    "side-information",
                    "--camera",
                    "right",
                    "--source",
                    sources["right"],
                    "--decoder",
                    f"127.0.0.1:{decoder_port}",
                ],
            )
        )
        left = stack.enter_context(
            running(
                "encoder_service",
                [
                    *common,
                    "--camera",
                    "left",
                    "--source",
                    sources["left"],
                    "--rate-level",
                    str(rate_level),
                    "--decoder",
                    f"127.0.0.1:{relay.port}",
                ],
            )
        )
        # The nodes are starting meanwhile: their first frame is not due before the epoch.
        originals = {
            view: [
                f.image
                for f in open_source(
                    sources[view], fps=fps, epoch_us=epoch_s * 1_000_000, realtime=False, limit=frames
                )
            ]
            for view in ("left", "right")
        }
        received = list(_follow(stream, originals["left"], console))
        summary = _finish(left)
        records, without = _measure(client, received, originals["left"], console)
        _report(
            bundle,
            records,
            received,
            without,
            originals,
            summary,
            relay.sent_bytes,
            fps,
            pairs,
            output,
            console,
        )


def _sustainable_fps(client: Client, bundle: Bundle, sources: dict[str, str], rate_level: int) -> float:
    """Frames a second that this machine can encode and decode with time to spare, at most 10."""
    images = {
        view: next(iter(open_source(address, realtime=False, limit=1))).image
        for view, address in sources.items()
    }
    encoder = FrameEncoder(bundle)
    encoder.encode(images["left"], rate_level)
    started = time.perf_counter()
    compressed = encoder.encode(images["left"], rate_level)
    client.decode(compressed, images["right"])
    client.decode(compressed, images["right"])
    seconds = (time.perf_counter() - started) / 2  # the first decode of a size is slower; the mean errs slow
    return max(0.2, round(min(MAX_FPS, LOAD / seconds), 1))


@dataclass(frozen=True)
class Received:
    """A decoded frame, when it came, and how near it is to the source."""

    decoded: SubscribedFrame
    latency_ms: float
    psnr: float


def _follow(
    stream: Iterator[SubscribedFrame], originals: list[Frame], console: Console
) -> Iterator[Received]:
    columns = (TextColumn("streaming"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("waiting for the first frame", total=len(originals))
        for decoded in stream:
            latency_ms = time.time() * 1000 - decoded.capture_time_us / 1000
            received = Received(decoded, latency_ms, psnr(originals[decoded.sequence - 1], decoded.image))
            progress.update(
                task,
                completed=decoded.sequence,
                description=(f"{decoded.payload_bytes} bytes, {received.psnr:.1f} dB, {latency_ms:.0f} ms"),
            )
            yield received
            if decoded.sequence == len(originals):
                return


def _finish(left: ServiceProcess) -> dict[str, Any]:
    return left.wait_for("done", START_TIMEOUT_S)


def _measure(
    client: Client, received: list[Received], originals: list[Frame], console: Console
) -> tuple[list[FrameRecord], list[Frame]]:
    """Decode every payload again without side information, and put the figures together."""
    records, pictures = [], []
    with console.status("decoding the same bytes without side information"):
        for item in received:
            decoded = item.decoded
            assert decoded.compressed is not None
            picture = client.decode(decoded.compressed).image
            pictures.append(picture)
            records.append(
                FrameRecord(
                    frame=decoded.sequence - 1,
                    payload_bytes=decoded.payload_bytes,
                    frame_bytes=decoded.frame_bytes,
                    payload_bpp=decoded.compressed.payload_bpp,
                    psnr=item.psnr,
                    psnr_without=psnr(originals[decoded.sequence - 1], picture),
                    side_information=decoded.side_information.outcome,
                    latency_ms=item.latency_ms,
                    decode_ms=decoded.decode_us / 1000,
                )
            )
    return records, pictures


def _report(
    bundle: Bundle,
    records: list[FrameRecord],
    received: list[Received],
    without: list[Frame],
    originals: dict[str, list[Frame]],
    summary: dict[str, Any],
    wire_bytes: int,
    fps: float,
    pairs: Path | None,
    output: Path,
    console: Console,
) -> None:
    height, width = originals["left"][0].shape[:2]
    wire_bytes_per_frame = wire_bytes / len(records)
    seconds = (received[-1].decoded.capture_time_us - received[0].decoded.capture_time_us) / 1e6
    facts = {
        "source": str(pairs) if pairs else "synthetic drive",
        "width": width,
        "height": height,
        "frames": len(records),
        "fps": round((len(records) - 1) / seconds, 2) if seconds else None,
        "offered_fps": fps,
        "rate": received[0].decoded.rate_level,
        "bundle_id": bundle.bundle_id,
        "payload_bytes": fmean(r.payload_bytes for r in records),
        "frame_bytes": fmean(r.frame_bytes for r in records),
        "wire_bytes": wire_bytes_per_frame,
        "payload_bpp": fmean(r.payload_bpp for r in records),
        "wire_bpp": 8 * wire_bytes_per_frame / (width * height),
        "psnr": fmean(r.psnr for r in records),
        "psnr_without": fmean(r.psnr_without for r in records),
        "encode_ms": summary["encode_ms"],
        "decode_ms": median(r.decode_ms for r in records),
        "latency_ms": median(r.latency_ms for r in records),
        "paired": sum(r.side_information == "paired" for r in records),
        "node": summary,
        "per_frame": [asdict(r) for r in records],
    }
    middle = len(records) // 2
    compared = ordinary(originals["left"][middle], records[middle].payload_bytes)
    record = records[middle]
    sheet = compose(
        [
            Panel(
                originals["left"][middle], "Source (left camera)", "what the node sees and compresses alone"
            ),
            Panel(
                originals["right"][middle], "Side information (right camera)", "what only the decoder sees"
            ),
            Panel(
                received[middle].decoded.image,
                "Decoded with side information",
                f"{record.payload_bytes} bytes, {record.psnr:.2f} dB",
            ),
            Panel(
                without[middle],
                "The same bytes decoded without",
                f"{record.payload_bytes} bytes, {record.psnr_without:.2f} dB",
            ),
            Panel(
                compared.frame,
                f"{compared.codec} at the nearest size it can make",
                f"{compared.size_bytes} bytes, {psnr(originals['left'][middle], compared.frame):.2f} dB",
            ),
            Panel(
                mended(originals["left"][middle], received[middle].decoded.image, without[middle]),
                "What side information mended",
                "error without minus error with, five times as bright",
            ),
        ],
        f"Frame {record.frame} of {facts['source']}, {width}x{height}",
    )
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "demo.json", (json.dumps(facts, indent=1) + "\n").encode())
    write_whole(output / "demo.png", encode_image(sheet, "png"))
    _print(facts, records, console)
    console.print(f"wrote {output / 'demo.json'} and {output / 'demo.png'}")


def _print(facts: dict[str, Any], records: list[FrameRecord], console: Console) -> None:
    table = Table(
        title=f"{facts['frames']} frames of {facts['source']}, {facts['width']}x{facts['height']}, "
        f"rate level {facts['rate']}"
    )
    for heading in ("frame", "payload B", "frame B", "bpp", "PSNR dB", "without y", "latency ms"):
        table.add_column(heading, justify="right")
    for r in records:
        table.add_row(
            str(r.frame),
            str(r.payload_bytes),
            str(r.frame_bytes),
            f"{r.payload_bpp:.4f}",
            f"{r.psnr:.2f}",
            f"{r.psnr_without:.2f}",
            f"{r.latency_ms:.0f}",
        )
    table.add_section()
    table.add_row(
        "mean",
        f"{facts['payload_bytes']:.0f}",
        f"{facts['frame_bytes']:.0f}",
        f"{facts['payload_bpp']:.4f}",
        f"{facts['psnr']:.2f}",
        f"{facts['psnr_without']:.2f}",
        f"{fmean(r.latency_ms for r in records):.0f}",
    )
    console.print(table)
    console.print(
        f"wire {facts['wire_bytes']:.0f} bytes a frame ({facts['wire_bpp']:.4f} bpp, session included) · "
        f"{facts['fps']} frames/s · encode {facts['encode_ms']:.0f} ms · decode {facts['decode_ms']:.0f} ms · "
        f"{facts['paired']} of {facts['frames']} frames had side information"
    )
