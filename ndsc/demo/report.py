"""What the demo measured: one JSON file, one picture, one table."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from ndsc.client import Client, SubscribedFrame
from ndsc.codec.files import write_whole
from ndsc.codec.frames import Frame, encode_image
from ndsc.demo.picture import Panel, compose, mended, ordinary
from ndsc.evaluate.metrics import psnr


@dataclass
class Measured:
    """A decoded frame, when it came, and how near it is to the source."""

    frame: SubscribedFrame
    latency_ms: float
    """From capture to the picture in this process."""
    psnr: float
    """dB, decoded with side information as streamed."""
    without: Frame = field(init=False)
    """The same bytes decoded without side information."""
    psnr_without: float = field(init=False)

    @property
    def index(self) -> int:
        """Of the frame in its source, from 0."""
        return self.frame.sequence - 1

    def decode_without(self, client: Client, source: Frame) -> None:
        """Ask the decoder for the picture that the same bytes give without side information."""
        assert self.frame.compressed is not None
        self.without = client.decode(self.frame.compressed).image
        self.psnr_without = psnr(source, self.without)

    def to_json(self) -> dict[str, Any]:
        """Figures of this frame."""
        assert self.frame.compressed is not None
        return {
            "frame": self.index,
            "payload_bytes": self.frame.payload_bytes,
            "frame_bytes": self.frame.frame_bytes,
            "payload_bpp": self.frame.compressed.payload_bpp,
            "psnr": self.psnr,
            "psnr_without": self.psnr_without,
            "side_information": self.frame.side_information.outcome,
            "latency_ms": self.latency_ms,
            "decode_ms": self.frame.decode_us / 1000,
        }


@dataclass(frozen=True)
class Stream:
    """A whole run."""

    source: str
    bundle_id: str
    left: list[Frame]
    right: list[Frame]
    measured: list[Measured]
    offered_fps: float
    node: dict[str, Any]
    """The left node's own account."""
    wire_bytes: int
    """All that the left node sent, HTTP/2 and session included."""

    def to_json(self) -> dict[str, Any]:
        """Means over the frames (medians of times), and every frame."""
        height, width = self.left[0].shape[:2]
        frames = [item.to_json() for item in self.measured]
        arrivals_ms = [item.frame.capture_time_us / 1000 + item.latency_ms for item in self.measured]
        seconds = (arrivals_ms[-1] - arrivals_ms[0]) / 1000
        wire_bytes = self.wire_bytes / len(frames)
        means = ("payload_bytes", "frame_bytes", "payload_bpp", "psnr", "psnr_without")
        return {
            "source": self.source,
            "width": width,
            "height": height,
            "frames": len(frames),
            "fps": round((len(frames) - 1) / seconds, 2) if seconds else None,
            "offered_fps": self.offered_fps,
            "rate": self.measured[0].frame.rate_level,
            "bundle_id": self.bundle_id,
            **{name: fmean(frame[name] for frame in frames) for name in means},
            "wire_bytes": wire_bytes,
            "wire_bpp": 8 * wire_bytes / (width * height),
            "encode_ms": self.node["encode_ms"],
            "decode_ms": median(frame["decode_ms"] for frame in frames),
            "latency_ms": median(frame["latency_ms"] for frame in frames),
            "paired": sum(frame["side_information"] == "paired" for frame in frames),
            "node": self.node,
            "per_frame": frames,
        }


def write_report(stream: Stream, output: Path) -> dict[str, Any]:
    """Write demo.json and demo.png to the directory `output`; returns what demo.json holds. Raises OutputError."""
    facts = stream.to_json()
    write_whole(output / "demo.json", (json.dumps(facts, indent=1) + "\n").encode())
    write_whole(output / "demo.png", encode_image(_sheet(stream), "png"))
    return facts


def _sheet(stream: Stream) -> Frame:
    """The middle frame in six panels."""
    item = stream.measured[len(stream.measured) // 2]
    source, decoded = stream.left[item.index], item.frame.image
    height, width = source.shape[:2]
    compared = ordinary(source, item.frame.payload_bytes)
    fits = compared.size_bytes <= 1.1 * item.frame.payload_bytes
    bytes_sent = f"{item.frame.payload_bytes} bytes"
    return compose(
        [
            Panel(source, "Source (left camera)", "what the node sees and compresses alone"),
            Panel(stream.right[item.index], "Side information (right camera)", "what only the decoder sees"),
            Panel(decoded, "Decoded with side information", f"{bytes_sent}, {item.psnr:.2f} dB"),
            Panel(
                item.without, "The same bytes decoded without", f"{bytes_sent}, {item.psnr_without:.2f} dB"
            ),
            Panel(
                compared.frame,
                f"{compared.codec} of about that size"
                if fits
                else f"{compared.codec}, the smallest it makes",
                f"{compared.size_bytes} bytes, {psnr(source, compared.frame):.2f} dB",
            ),
            Panel(
                mended(source, decoded, item.without),
                "What side information mended",
                "error without minus error with, eight times as bright",
            ),
        ],
        f"Frame {item.index} of {stream.source}, {width}x{height}",
    )


def print_table(facts: dict[str, Any], console: Console) -> None:
    """What demo.json holds, for people."""
    size = f"{facts['width']}x{facts['height']}"
    title = f"{facts['frames']} frames of {facts['source']}, {size}, rate level {facts['rate']}"
    table = Table(title=title)
    for heading in ("frame", "payload B", "frame B", "bpp", "PSNR dB", "without y", "latency ms"):
        table.add_column(heading, justify="right")

    def add_row(name: object, row: dict[str, Any]) -> None:
        table.add_row(
            str(name), f"{row['payload_bytes']:.0f}", f"{row['frame_bytes']:.0f}", f"{row['payload_bpp']:.4f}",
            f"{row['psnr']:.2f}", f"{row['psnr_without']:.2f}", f"{row['latency_ms']:.0f}",
        )  # fmt: skip

    for frame in facts["per_frame"]:
        add_row(frame["frame"], frame)
    table.add_section()
    add_row("all", facts)
    console.print(table)
    console.print(
        f"wire {facts['wire_bytes']:.0f} bytes a frame ({facts['wire_bpp']:.4f} bpp, session included) · "
        f"{facts['fps']} frames/s · encode {facts['encode_ms']:.0f} ms · decode {facts['decode_ms']:.0f} ms · "
        f"{facts['paired']} of {facts['frames']} frames had side information"
    )
