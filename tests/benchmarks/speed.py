"""How fast a camera node codes and a server decodes: `python -m tests.benchmarks.speed`.

The codec in this process, on one core and on two; a running camera node, pixels to payload, whose decoder's end
only acknowledges; and ordinary codecs on one core at about the same PSNR, each at the effort that the report uses.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.frames import Frame
from ndsc.codec.runtime import RuntimeOptions
from ndsc.evaluate.metrics import psnr
from tests.benchmarks import content
from tests.benchmarks.report import arguments, at_least, spread, write_report
from tests.contract.encoder_peer import Peer, serve
from tests.robustness.history import read_histories
from tests.robustness.processes import Service
from training.report.codecs import PICTURE_CODECS

WIDTH, HEIGHT = 1242, 375
ORDINARY: Final = ("JPEG 4:2:0", "WebP", "AVIF 4:2:0", "HEIC 4:2:0")
WARM_UP_FRAMES: Final = 10
START_TIMEOUT_S: Final = 60.0


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = arguments("speed", __doc__)
    parser.add_argument(
        "--frames", type=at_least(2 + WARM_UP_FRAMES, int), default=150, help="of the running node"
    )
    parser.add_argument("--repeats", type=at_least(1, int), default=5, help="timed rounds over the pictures")
    chosen = parser.parse_args(argv)
    left, right = (content.drive(view, WIDTH, HEIGHT) for view in ("left", "right"))
    bundle = Bundle.load(default_bundle_path())
    report: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "rate_level": bundle.default_rate_level}
    for cores in (1, 2)[: len(os.sched_getaffinity(0))]:
        report[f"codec_on_{cores}"] = codec(bundle, left, right, cores, chosen.repeats)
        print(f"on {cores}: {report[f'codec_on_{cores}']}", flush=True)
    report["ordinary_on_1"] = ordinary(left, quality(bundle, left[0], right[0]), chosen.repeats)
    print(f"ordinary codecs: {report['ordinary_on_1']}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        pictures = content.write_folder(Path(name, "pictures"), left)
        folders = [Path(name, str(run)) for run in range(chosen.runs)]
        for folder in folders:
            folder.mkdir()
        runs = [asyncio.run(node(pictures, folder, chosen.frames)) for folder in folders]
    report["node_on_all"] = {name: spread(run[name] for run in runs) for name in runs[0]}
    print(f"node: {report['node_on_all']}", flush=True)
    write_report(chosen.output, report)


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Hold this thread, and those it starts, to the first `count` cores. Raises ValueError for want of them."""
    own = os.sched_getaffinity(0)
    if len(own) < count:
        raise ValueError(f"this process may use {len(own)} cores, not {count}")
    os.sched_setaffinity(0, sorted(own)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def codec(
    bundle: Bundle, left: Sequence[Frame], right: Sequence[Frame], cores: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Milliseconds a frame: network and quantizer, prior and range coder, both; and decoding."""
    level, options = bundle.default_rate_level, RuntimeOptions(threads=cores)
    with on_cores(cores):
        encoder, decoder = FrameEncoder(bundle, options), FrameDecoder(bundle, options)
        indices = [encoder.analyze(frame, level) for frame in left]
        packed = [encoder.pack(one, level) for one in indices]
        pairs = list(zip(packed, right, strict=True))
        return {
            "analyze_ms": timed(lambda frame: encoder.analyze(frame, level), left, repeats),
            "pack_ms": timed(lambda one: encoder.pack(one, level), indices, repeats),
            "encode_ms": timed(lambda frame: encoder.encode(frame, level), left, repeats),
            "unpack_ms": timed(decoder.unpack, packed, repeats),
            "decode_ms": timed(lambda pair: decoder.decode(*pair), pairs, repeats),
        }


def quality(bundle: Bundle, left: Frame, right: Frame) -> float:
    """PSNR of one frame at the default level with side information, dB."""
    frame = FrameEncoder(bundle).encode(left)
    return psnr(left, FrameDecoder(bundle).decode(frame, right))


def ordinary(frames: Sequence[Frame], wanted_db: float, repeats: int) -> dict[str, dict[str, float]]:
    """Encoding milliseconds of other codecs on one core, at the setting that is nearest to a PSNR on one frame."""
    found = {}
    with on_cores(1):
        for name in ORDINARY:
            other = PICTURE_CODECS[name]
            reached = {
                step: psnr(frames[0], other.decode(other.encode(frames[0], step))) for step in other.ladder
            }
            step = min(reached, key=lambda one: abs(reached[one] - wanted_db))
            times = timed(lambda frame: other.encode(frame, step), frames, repeats)  # noqa: B023
            found[name] = times | {"setting": step, "psnr_db": round(reached[step], 2)}
    return found


def timed(call: Callable[[Any], object], inputs: Sequence[Any], repeats: int) -> dict[str, float]:
    """Median, least and most of the rounds' mean milliseconds, after a round that does not count."""
    rounds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for one in inputs:
            call(one)
        rounds.append(1000 * (time.perf_counter() - started) / len(inputs))
    return spread(rounds[1:])


async def node(pictures: Path, folder: Path, frames: int) -> dict[str, float]:
    """A camera node that plays JPEG files as fast as it can: frames a second, coding time, peak memory."""
    async with serve(Peer()) as peer:
        flags = [
            *("--bundle", str(default_bundle_path()), "--listen", "127.0.0.1:0", "--decoder", peer.address),
            *("--source", str(pictures), "--loop", "--pace", "credit", "--limit", str(frames)),
            *("--side-information", "none", "--history", str(folder / "node.jsonl")),
        ]
        service = Service("encoder_service", flags, folder / "node.log")
        await service.start()
        peak = asyncio.create_task(asyncio.to_thread(peak_mbytes, service.pid))
        try:
            account = await service.wait_for("done", START_TIMEOUT_S + frames)
        finally:
            await service.stop()
    history = read_histories([folder / "node.jsonl"])
    times_s = [event.m_us / 1e6 for event in history.of("node", "coded")][WARM_UP_FRAMES:]
    return {
        "frames_per_s": (len(times_s) - 1) / (times_s[-1] - times_s[0]),
        "encode_ms": account["encode_ms"],
        "peak_memory_mbytes": await peak,
        "payload_bytes": account["payload_bytes"] / account["sent"],
    }


def peak_mbytes(pid: int) -> float:
    """The most memory that a process ever took, MiB; returns when it has ended."""
    status, most = Path(f"/proc/{pid}/status"), 0.0
    while True:
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return most
        sizes = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
        if not sizes:  # ended, and not yet waited for
            return most
        most = sizes[0]
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1:])
