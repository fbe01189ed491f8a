"""`ndsc record` and `ndsc replay`: a rig's streams in an MCAP file, and decoded again from there."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ndsc.cli_services import TlsCa, TlsCertificate, TlsKey, TlsServerName
from ndsc.recording.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ndsc.client import Client, Subscription
    from ndsc.codec.bitstream import CompressedFrame
    from ndsc.codec.frames import Frame
    from ndsc.recording.replay import Decode, Replayed

TokenFile = Annotated[Path | None, typer.Option(help="File with a bearer token, instead of a certificate.")]


def record(
    address: Annotated[str, typer.Argument(help="host:port of a decoder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="MCAP file to write.")],
    rig: Annotated[str, typer.Option(help="Rig to record.")],
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="Record this camera of it; repeatable. All without; a camera whose decoded frames serve as side "
            "information must be among them, or what it serves cannot be replayed."
        ),
    ] = None,
    pictures: Annotated[
        Literal["png", "jpeg"],
        typer.Option(
            help="Format of the decoded pictures; jpeg can be neither compared nor side information."
        ),
    ] = "png",
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so long.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many decoded frames.")] = None,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    tls_server_name: TlsServerName = None,
) -> None:
    """Record a rig's decoded and compressed frames and its side information until Ctrl-C or SIGTERM."""
    with _packages():
        from ndsc.recording.writer import Recorder
    with _client(address, tls_ca, tls_certificate, tls_key, token_file, tls_server_name) as client:
        subscription = client.subscribe(
            rig,
            camera or (),
            include_compressed=True,
            include_side_information=True,
            image_format=pictures,
        )
        decoded = 0
        with Recorder(output) as recorder, subscription, _ended_by_signals(subscription, seconds):
            print(f"recording rig {rig} of {address}", file=sys.stderr)
            for message in subscription.messages():
                recorder.write(message)
                decoded += message.WhichOneof("message") == "frame"
                if decoded == frames:
                    break
    for topic, count in sorted(recorder.counts.items()):
        print(f"{topic}: {count}")
    if recorder.missed:
        print(f"missed, since the server was faster than this recording: {recorder.missed}")


def replay(
    recording: Annotated[Path, typer.Argument(help="MCAP file that `ndsc record` wrote.")],
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Bundle to decode with; repeatable. The released one without.")
    ] = None,
    decoder: Annotated[
        str | None, typer.Option(help="host:port of a decoder to decode with instead.")
    ] = None,
    write_frames: Annotated[Path | None, typer.Option(help="Folder for the pictures, as PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")] = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    tls_server_name: TlsServerName = None,
) -> None:
    """Decode a recording again and compare with its pictures; exit 1 where one is off by over 1 grey level."""
    with _packages():
        from ndsc.recording.reader import Recording
        from ndsc.recording.replay import Tally
        from ndsc.recording.replay import replay as decode_again
    if decoder and bundle:
        raise typer.BadParameter("give --bundle or --decoder")
    tally, read = Tally(), Recording(recording)
    credentials = (tls_ca, tls_certificate, tls_key, token_file, tls_server_name)
    with _decode(decoder, bundle or [], credentials) as decode:
        for replayed in decode_again(iter(read), decode):
            tally.add(replayed)
            if write_frames:
                _write(write_frames, replayed)
    if read.cut_short:
        print(f"{recording}: has no end, as a crash leaves it; what is in it was replayed", file=sys.stderr)
    if as_json:
        print(json.dumps({**asdict(tally), "cut_short": read.cut_short}))
    else:
        print(
            f"{tally.frames} frames decoded again; {tally.compared} compared with pictures of the same decoder: "
            f"{tally.exact} exact, off by {tally.largest_difference} grey levels at most"
        )
        for count, what in (
            (tally.another_decoder, "by another decoder"),
            (tally.without_picture, "without a lossless picture"),
            (tally.without_side_information, "whose side information was not recorded"),
        ):
            if count:
                print(f"not compared: {count} {what}")
    if tally.largest_difference > 1:
        raise typer.Exit(1)


def _write(folder: Path, replayed: Replayed) -> None:
    from ndsc.service.images import frame_name, write_frame

    facts = replayed.recorded.facts
    name = frame_name(facts.rig, facts.camera, facts.session_id, facts.sequence)
    write_frame(folder / name, replayed.image)


@contextmanager
def _packages() -> Iterator[None]:
    """Say which packages are missing, in one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in (
            *("mcap", "mcap_protobuf", "foxglove_schemas_protobuf", "zstandard"),
        ):
            raise
        raise RecordingError(f"{error.name} is not installed; pip install 'ndsc[recording]'") from error


@contextmanager
def _client(
    address: str,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    token_file: Path | None,
    name: str | None,
) -> Iterator[Client]:
    from ndsc.client import Client
    from ndsc.service.tokens import read_token

    token = None if token_file is None else read_token(token_file)
    with Client(
        address, tls_ca=ca, tls_certificate=certificate, tls_key=key, token=token, tls_server_name=name
    ) as client:
        yield client


@contextmanager
def _decode(
    address: str | None,
    paths: list[Path],
    credentials: tuple[Path | None, Path | None, Path | None, Path | None, str | None],
) -> Iterator[Decode]:
    """By a server, or by bundles in this process."""
    if address is not None:
        with _client(address, *credentials) as client:

            def decode(frame: CompressedFrame, side_information: Frame | None) -> tuple[Frame, str]:
                decoded = client.decode(frame, side_information)
                return decoded.image, decoded.bundle_id

            yield decode
        return
    from ndsc.codec.bundle import Bundle, default_bundle_path
    from ndsc.recording.replay import by_bundles

    yield by_bundles([Bundle.load(path) for path in paths or [default_bundle_path()]])


@contextmanager
def _ended_by_signals(subscription: Subscription, seconds: float | None) -> Iterator[None]:
    """Close the subscription at Ctrl-C, SIGTERM or after some seconds: the file then ends as it should."""
    timer = None if seconds is None else Timer(seconds, subscription.close)
    before = {
        number: signal.signal(number, lambda *_: subscription.close())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    if timer:
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
