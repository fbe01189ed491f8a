"""The demo's course: start the services, stream, decode again without side information, report.

left node ── relay (counts bytes) ──→ decoder ──→ this process (Subscribe, then Decode)
right node ──────────────────────────→ (side information)
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ndsc.client import Client, Subscription
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.errors import NdscError, OutputError
from ndsc.codec.frames import Frame
from ndsc.demo.processes import ProcessError, ServiceProcess, running
from ndsc.demo.relay import relaying
from ndsc.demo.report import Measured, Stream, print_table, write_report
from ndsc.evaluate.metrics import psnr
from ndsc.evaluate.pairs import list_pairs
from ndsc.sources import open_source

RIG = "demo"
MAX_FPS = 10.0
LOAD = 0.5
"""Share of the machine's measured speed that the stream asks for; pictures and the user need the rest."""
START_TIMEOUT_S = 60.0
LAST_PICTURES_S = 10.0
"""For pictures that are still under way when the left node has all its acknowledgements."""
MAX_FRAMES = 1024
"""What the services' queues hold at most, so that the demo loses no frame on a slow machine."""


def run_demo(
    pairs: Path | None,
    *,
    frames: int,
    rate_level: int | None,
    bundle_path: Path,
    output: Path,
    console: Console,
) -> None:
    """Stream `frames` left frames of `pairs`, or of the synthetic drive, and write demo.json and demo.png.

    Without a `rate_level` it is two thirds of the way up the bundle's, where other codecs make files as small.

    Raises PairsError, BundleError, RateLevelError, OutputError, ProcessError or ServiceError, each with one line
    that says what to do.
    """
    bundle = Bundle.load(bundle_path)
    if rate_level is None:
        rate_level = round(2 / 3 * (bundle.rate_level_count - 1))
    bundle.stages_sent(rate_level)
    frames = min(frames, MAX_FRAMES, len(list_pairs(pairs)) if pairs else MAX_FRAMES)
    sources = {view: str(pairs / view) if pairs else f"synthetic:{view}" for view in ("left", "right")}
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror or error}") from error

    with ExitStack() as stack:
        started = time.monotonic()
        with console.status("starting the decoder"):
            flags = ["--bundle", str(bundle_path), "--listen", "127.0.0.1:0", "--pair-wait-ms", "5000"]
            decoder = stack.enter_context(
                running("decoder_service", [*flags, "--subscriber-queue-frames", str(frames)])
            )
            decoder_port = decoder.wait_for("ready", START_TIMEOUT_S)["port"]
        start_s = time.monotonic() - started
        relay = stack.enter_context(relaying(decoder_port))
        client = stack.enter_context(Client(f"127.0.0.1:{decoder_port}", timeout_s=60))
        fps = _sustainable_fps(client, bundle, sources, rate_level)
        subscription = stack.enter_context(client.subscribe(RIG, cameras=["left"], include_compressed=True))

        # A shared epoch makes left and right frames of one moment carry one capture time. Nothing is due before
        # it; the two nodes start side by side, each about as slowly as the decoder did alone.
        epoch_s = math.ceil(time.time() + 1 + 3 * start_s)
        common = [
            *("--rig", RIG, "--bundle", str(bundle_path), "--listen", "127.0.0.1:0"),
            *("--epoch", str(epoch_s), "--fps", repr(fps)),
            *("--limit", str(frames), "--queue-frames", str(frames)),
        ]
        right = ["--role", "side-information", "--camera", "right", "--source", sources["right"]]
        left = ["--camera", "left", "--source", sources["left"], "--rate-level", str(rate_level)]
        stack.enter_context(
            running("encoder_service", [*common, *right, "--decoder", f"127.0.0.1:{decoder_port}"])
        )
        node = stack.enter_context(
            running("encoder_service", [*common, *left, "--decoder", f"127.0.0.1:{relay.port}"])
        )
        originals = {
            view: [
                frame.image
                for frame in open_source(
                    address, fps=fps, epoch_us=epoch_s * 1_000_000, realtime=False, limit=frames
                )
            ]
            for view, address in sources.items()
        }
        timeout_s = START_TIMEOUT_S + 2 * start_s + 4 * frames / fps
        measured, summary = _follow(subscription, node, originals["left"], timeout_s, console)
        with console.status("decoding the same bytes without side information"):
            for item in measured:
                item.decode_without(client, originals["left"][item.index])

    stream = Stream(
        source=str(pairs) if pairs else "synthetic drive", bundle_id=bundle.bundle_id, left=originals["left"],
        right=originals["right"], measured=measured, offered_fps=fps, node=summary, wire_bytes=relay.sent_bytes,
    )  # fmt: skip
    facts = write_report(stream, output)
    print_table(facts, console)
    console.print(f"wrote {output / 'demo.json'} and {output / 'demo.png'}")


def _sustainable_fps(client: Client, bundle: Bundle, sources: dict[str, str], rate_level: int) -> float:
    """Frames a second that this machine can encode and decode with time to spare, at most 10."""
    images = {
        view: next(iter(open_source(address, realtime=False, limit=1))).image
        for view, address in sources.items()
    }
    encoder = FrameEncoder(bundle)
    encoder.encode(images["left"], rate_level)
    client.decode(
        encoder.encode(images["left"], rate_level), images["right"]
    )  # the first of a size is slower
    started = time.perf_counter()
    client.decode(encoder.encode(images["left"], rate_level), images["right"])
    return max(0.2, round(min(MAX_FPS, LOAD / (time.perf_counter() - started)), 1))


def _follow(
    subscription: Subscription,
    node: ServiceProcess,
    originals: list[Frame],
    timeout_s: float,
    console: Console,
) -> tuple[list[Measured], dict[str, Any]]:
    """Pictures as they come, and the left node's account at its end. Raises ProcessError unless all came."""
    measured: list[Measured] = []
    failure: list[NdscError] = []

    def collect() -> None:
        try:
            for frame in subscription:
                latency_ms = time.time() * 1000 - frame.capture_time_us / 1000
                item = Measured(frame, latency_ms, psnr(originals[frame.sequence - 1], frame.image))
                measured.append(item)
                progress.update(
                    task, completed=len(measured),
                    description=f"{frame.payload_bytes} bytes, {item.psnr:.1f} dB, {latency_ms:.0f} ms",
                )  # fmt: skip
                if len(measured) == len(originals):
                    return
        except NdscError as error:
            failure.append(error)

    summary: dict[str, Any] = {}
    pictures = Thread(target=collect, name="pictures")
    columns = (TextColumn("streaming"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("waiting for the first frame", total=len(originals))
        pictures.start()
        try:
            summary = node.wait_for("done", timeout_s)
            pictures.join(LAST_PICTURES_S)
        except NdscError as error:  # the node's own account says more than a broken subscription
            failure.insert(0, error)
        finally:
            subscription.close()  # whatever happened to the node, the collection ends
            pictures.join()
    if failure:
        raise failure[0]
    if len(measured) < len(originals):
        raise ProcessError(
            f"{len(measured)} of {len(originals)} pictures came back; the node reports {summary}"
        )
    return measured, summary
