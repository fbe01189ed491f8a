"""The `ndsc` command: a thin layer over the codec, the evaluation and the client.

Services are started as processes (`python -m encoder_service`), so this module imports neither of them. What a
command needs it imports itself: `ndsc health` runs every few seconds on small machines.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ndsc import cli_recording, cli_security, cli_services
from ndsc.codec.errors import NdscError, OutputError

if TYPE_CHECKING:
    from ndsc.codec.bundle import Bundle

app = typer.Typer(
    help="Neural distributed source coding: cameras compress alone, the decoder sees another view.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_services.serve, name="serve")
app.command("health")(cli_services.health)
app.command("node")(cli_services.node)
app.command("record")(cli_recording.record)
app.command("replay")(cli_recording.replay)
app.add_typer(cli_security.certificates, name="certificates")
app.add_typer(cli_security.token, name="token")
# Progress and notes go to stderr: stdout carries results alone, so that --json can be piped.
_notes = Console(stderr=True)

BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="Bundle directory or zip; $NDSC_BUNDLE or the released default without."),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves the choice to onnxruntime.")]


class _Protocol(StrEnum):
    KITTI128 = "kitti128"
    NATIVE = "native"


class _SideInformation(StrEnum):
    RIGHT = "right"
    NONE = "none"
    WRONG = "wrong"
    BLACK = "black"


def _load_bundle(path: Path | None) -> Bundle:
    from ndsc.codec.bundle import Bundle, default_bundle_path

    return Bundle.load(path or default_bundle_path())


def _report(as_json: bool, facts: dict[str, Any], line: str) -> None:
    print(json.dumps(facts) if as_json else line)


@app.command()
def encode(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG, WebP, BMP, PPM or TIFF.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .ndsc file to write.")],
    bundle: BundleOption = None,
    rate: Annotated[
        int | None, typer.Option(help="Rate level, 0 the lowest; the bundle's default without.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compress one image, without side information: the encoder never sees it."""
    from ndsc.codec.bitstream import write_frame_file
    from ndsc.codec.codec import FrameEncoder
    from ndsc.codec.frames import read_image

    loaded = _load_bundle(bundle)
    frame = FrameEncoder(loaded).encode(read_image(image), rate)
    write_frame_file(output, frame)
    size = output.stat().st_size
    _report(
        as_json,
        {
            "output": str(output),
            "bundle_id": loaded.bundle_id,
            "bitstream_id": loaded.bitstream_id.hex(),
            "rate": frame.rate_level,
            "width": frame.width,
            "height": frame.height,
            "payload_bytes": len(frame.payload),
            "file_bytes": size,
            "payload_bpp": frame.payload_bpp,
        },
        f"{output}: {frame.width}x{frame.height}, rate {frame.rate_level}, "
        f"payload {len(frame.payload)} bytes ({frame.payload_bpp:.4f} bpp), file {size} bytes",
    )


@app.command()
def decode(
    frame: Annotated[Path, typer.Argument(help="A .ndsc file.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Image to write; the suffix gives the format.")
    ],
    side_information: Annotated[
        Path | None, typer.Option(help="What another camera saw at that time, same size.")
    ] = None,
    bundle: BundleOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Decompress one frame, with side information when there is any."""
    from ndsc.codec.bitstream import read_frame_file
    from ndsc.codec.codec import FrameDecoder
    from ndsc.codec.frames import read_image, write_image

    loaded = _load_bundle(bundle)
    compressed = read_frame_file(frame)
    side = read_image(side_information) if side_information else None
    write_image(output, FrameDecoder(loaded).decode(compressed, side))
    with_side = "with" if side is not None else "without"
    _report(
        as_json,
        {
            "output": str(output),
            "bundle_id": loaded.bundle_id,
            "rate": compressed.rate_level,
            "width": compressed.width,
            "height": compressed.height,
            "side_information": side is not None,
        },
        f"{output}: {compressed.width}x{compressed.height}, decoded {with_side} side information",
    )


@app.command()
def evaluate(
    pairs: Annotated[list[Path], typer.Option(help="Directory with left/ and right/; may repeat.")],
    protocol: Annotated[
        _Protocol,
        typer.Option(help="kitti128: centre crop 370x740, resized to 128x256; native: frames as they are."),
    ] = _Protocol.KITTI128,
    side_information: Annotated[
        _SideInformation,
        typer.Option(help="What the decoder sees: the right frame, none, another pair's, or black."),
    ] = _SideInformation.RIGHT,
    late: Annotated[
        int,
        typer.Option(min=0, help="It is of so many pairs before: a camera that hangs. For pairs in time."),
    ] = 0,
    rows: Annotated[
        int, typer.Option(help="It is so many rows lower, after the protocol: a rig that is not rectified.")
    ] = 0,
    bundle: BundleOption = None,
    threads: Threads = 0,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write every figure, image by image, to OUT.", metavar="OUT")
    ] = None,
) -> None:
    """Measure rate and distortion on stereo pairs, from real bytes that are decoded again."""
    from ndsc.codec.files import write_whole
    from ndsc.codec.runtime import RuntimeOptions
    from ndsc.evaluate import evaluate as run
    from ndsc.evaluate.wire import frame_message_bytes

    if output and not output.parent.is_dir():  # before minutes of work, not after
        raise OutputError(f"cannot write {output}: there is no folder {output.parent}")
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_notes, transient=True) as progress:
        task = progress.add_task("")
        result = run(
            _load_bundle(bundle),
            pairs,
            frame_bytes=frame_message_bytes,
            protocol=protocol.value,
            side_information=side_information.value,
            late=late,
            rows=rows,
            options=RuntimeOptions(threads=threads),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    table = Table(
        title=f"{result.pairs} pairs, {result.protocol}, side information: {result.side_information}"
        + (f", {late} pairs late" if late else "")
        + (f", moved down by {rows} rows" if rows else "")
    )
    for heading in (
        "rate",
        "payload bpp",
        "frame bpp",
        "PSNR dB",
        "PSNR float",
        "MS-SSIM",
        "encode ms",
        "decode ms",
    ):
        table.add_column(heading, justify="right")
    for p in result.points:
        similarity = "too small" if p.ms_ssim is None else f"{p.ms_ssim:.4f}"
        table.add_row(
            str(p.rate),
            f"{p.payload_bpp:.4f}",
            f"{p.frame_bpp:.4f}",
            f"{p.psnr:.2f}",
            f"{p.psnr_float:.2f}",
            similarity,
            f"{p.encode_ms:.1f}",
            f"{p.decode_ms:.1f}",
        )
    Console().print(table)
    if output:
        write_whole(output, (json.dumps(result.to_json(), indent=1) + "\n").encode())


@app.command()
def check(
    pairs: Annotated[Path, typer.Option(help="Directory with left/ and right/.")],
    as_json: JsonFlag = False,
) -> None:
    """Check that pairs are rectified, a scene point on the same row of both views; exit 1 when they are not."""
    from ndsc.codec.frames import read_image
    from ndsc.evaluate.pairs import PairsError, list_pairs
    from ndsc.evaluate.rectification import MAX_RECTIFIED_ROWS, vertical_offset_rows

    offsets = {}
    for pair in list_pairs(pairs):
        try:
            offsets[pair.name] = vertical_offset_rows(read_image(pair.left), read_image(pair.right))
        except ValueError as error:
            raise PairsError(f"{pair.left}: {error}") from error
    middle = median(offsets.values())
    worst = max(offsets, key=lambda name: abs(offsets[name]))
    rectified = abs(middle) < MAX_RECTIFIED_ROWS
    verdict = "rectified" if rectified else "not rectified, one camera shows the scene lower"
    _report(
        as_json,
        {
            "pairs": len(offsets),
            "rectified": rectified,
            "median_offset_rows": middle,
            "offset_rows": offsets,
        },
        f"{len(offsets)} pairs: median vertical offset {middle:+.2f} rows, worst {offsets[worst]:+.2f} "
        f"({worst}): {verdict}",
    )
    if not rectified:
        raise typer.Exit(1)


@app.command()
def demo(
    pairs: Annotated[
        Path | None, typer.Option(help="Directory with left/ and right/; a synthetic drive without.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to stream at most.")] = 24,
    rate: Annotated[
        int | None,
        typer.Option(
            help="Rate level, 0 the lowest; without, one at which other codecs make files as small: two thirds up."
        ),
    ] = None,
    bundle: BundleOption = None,
    output: Annotated[Path, typer.Option(help="Where demo.json and demo.png go.")] = Path("out"),
) -> None:
    """Stream left frames from a node to a decoder that sees the right ones, and show what came out."""
    from ndsc.codec.bundle import default_bundle_path
    from ndsc.demo import run_demo

    run_demo(
        pairs,
        frames=frames,
        rate_level=rate,
        bundle_path=bundle or default_bundle_path(),
        output=output,
        console=Console(),
    )


def main() -> None:
    """Entry point: errors raised on purpose become one line and exit code 1."""
    try:
        app()
    except NdscError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
