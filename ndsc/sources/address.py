"""Source addresses: what a user writes, and the source it names."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Final, cast
from urllib.parse import parse_qsl, urlsplit

from ndsc.scene import SceneConfig, View
from ndsc.sources.folder import FolderReader
from ndsc.sources.live import LiveAddress, LiveSource
from ndsc.sources.playback import PlaybackSource, Reader, Timeline
from ndsc.sources.source import Source, SourceError, SystemTimer, Timer
from ndsc.sources.synthetic import DriveSource, SyntheticReader
from ndsc.sources.video import VideoReader

DEFAULT_FPS: Final = Fraction(10)
"""Of folders and the synthetic drive."""

_FORMS: Final = (
    "a folder of images, a video file, camera:/dev/video0, rtsp://host/path, synthetic:left or "
    "synthetic:right"
)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def open_source(
    address: str,
    *,
    fps: float | None = None,
    epoch_us: int | None = None,
    loop: bool = False,
    realtime: bool = True,
    limit: int | None = None,
    live_timeout_s: float = 5.0,
    timer: Timer | None = None,
) -> Source:
    """Open the source that `address` names.

    - a folder: its images in the order of their names, all of one size;
    - a video file: its first video stream;
    - `synthetic:left` or `synthetic:right`, with `?seed=0&width=256&height=128`: the built-in stereo drive,
      whose scene time is the capture time; without an epoch it leaves out what it was too slow for, as cameras do;
    - `camera:/dev/video0`: a Video4Linux camera;
    - `rtsp://…`: a network camera, over TCP.

    :param fps: frames a second. Default: a video file's or camera's own, else 10.
    :param epoch_us: capture time of frame 0 of files and the synthetic drive, in microseconds since the Unix
        epoch; the others follow at epoch + i / fps. Default: the next whole second; for the drive 1970,
        and frames before now are left out.
    :param loop: play files again and again; times go on.
    :param realtime: give frame i of files and the synthetic drive not before its capture time, else at once.
    :param limit: end after this many frames.
    :param live_timeout_s: longest wait for a camera or RTSP address to answer, and for its next frame.
    :param timer: the clock to play by; default the system's.
    :raises SourceError: when there is no such source, or for an argument it cannot follow.
    """
    timer = timer or SystemTimer()
    if fps is not None and not (math.isfinite(fps) and 0.001 <= fps <= 1000):
        raise SourceError(f"fps must be 0.001 to 1000, not {fps:g}")
    if limit is not None and limit < 1:
        raise SourceError(f"the limit must be 1 frame or more, not {limit}")
    if epoch_us is not None and epoch_us < 0:
        raise SourceError("the epoch must not lie before 1970")
    scheme = address.partition(":")[0].lower() if _SCHEME.match(address) else ""
    if scheme in ("camera", "rtsp", "rtsps"):
        if epoch_us is not None or loop:
            raise SourceError(
                f"{_label(address)}: a live source has its own times and no end; leave out epoch and loop"
            )
        return LiveSource(_live_address(scheme, address, fps, live_timeout_s), timer, limit=limit)
    rate = Fraction(fps).limit_denominator(1_000_000) if fps is not None else None
    if scheme == "synthetic" and epoch_us is None and realtime:
        return DriveSource(_synthetic(address, Timeline(0, rate or DEFAULT_FPS)), timer, limit=limit)
    epoch_us = epoch_us if epoch_us is not None else -(-timer.now_us() // 1_000_000) * 1_000_000
    reader: Reader
    if scheme == "synthetic":
        timeline = Timeline(epoch_us, rate or DEFAULT_FPS)
        reader = _synthetic(address, timeline)
    elif address and (path := Path(address)).is_dir():
        timeline = Timeline(epoch_us, rate or DEFAULT_FPS)
        reader = FolderReader(path)
    elif address and path.exists():
        reader = video = VideoReader(path)
        if rate is None and video.fps is None:
            raise SourceError(f"{address}: states no frame rate; give fps")
        timeline = Timeline(epoch_us, rate or video.fps or DEFAULT_FPS)
    elif scheme:
        raise SourceError(f"{_label(address)}: no source of this kind; give {_FORMS}")
    else:
        raise SourceError(f"{address or '(empty)'}: no such folder or file; give {_FORMS}")
    return PlaybackSource(reader, timeline, timer, loop=loop, realtime=realtime, limit=limit)


def _synthetic(address: str, timeline: Timeline) -> SyntheticReader:
    parts = urlsplit(address)
    if parts.path not in ("left", "right"):
        raise SourceError(f"{address}: no such view; write synthetic:left or synthetic:right")
    values: dict[str, int] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in ("seed", "width", "height"):
            raise SourceError(f"{address}: {name!r} is not known; seed, width and height are")
        try:
            values[name] = int(text)
        except ValueError:
            raise SourceError(f"{address}: {name} must be a whole number, not {text!r}") from None
    try:
        return SyntheticReader(SceneConfig(**values), cast(View, parts.path), timeline)
    except ValueError as error:
        raise SourceError(f"{address}: {error}") from error


def _live_address(scheme: str, address: str, fps: float | None, timeout_s: float) -> LiveAddress:
    if scheme == "camera":
        device = address.partition(":")[2]
        if not device:
            raise SourceError("camera: names no device; write camera:/dev/video0")
        options = {"framerate": f"{fps:g}"} if fps is not None else {}
        return LiveAddress(
            device,
            f"camera:{device}",
            "ls /dev/video* shows the cameras of this machine",
            timeout_s,
            format="v4l2",
            options=options,
        )
    if fps is not None:
        raise SourceError(f"{_label(address)}: sends at its own rate; leave out fps")
    return LiveAddress(
        address,
        _label(address),
        "check the address and that the camera is on",
        timeout_s,
        options={"rtsp_transport": "tcp", "timeout": str(round(timeout_s * 1_000_000))},
    )


def _label(address: str) -> str:
    """The address without user name and password, which have no place in messages and logs."""
    return re.sub(r"//[^/?#]*@", "//", address)
