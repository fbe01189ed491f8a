"""Video files, read by PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np

from ndsc.codec.frames import MAX_IMAGE_PIXELS, Frame
from ndsc.sources.source import SourceError

# FFmpeg also plays text files, and playlists that name other files and addresses: neither is a video here.
_FORMATS: Final = (
    "mov",
    "mp4",
    "matroska",
    "webm",
    "avi",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "m4v",
    "h264",
    "hevc",
    "mjpeg",
    "yuv4mpegpipe",
    "ivf",
    "flv",
    "asf",
    "ogg",
    "mxf",
    "gif",
)
OPTIONS: Final = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}


def to_rgb(frame: av.VideoFrame, name: str) -> Frame:
    """uint8 RGB [height, width, 3], turned as the file asks players to. SourceError for one too large."""
    if frame.width * frame.height > MAX_IMAGE_PIXELS:
        raise SourceError(f"{name}: {frame.width}x{frame.height} pixels are too many; scale it down")
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


class VideoReader:
    """The first video stream of a file.

    Raises SourceError when the file is not a video, and while reading where it is damaged or changes size.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as container:
            rate = container.streams.video[0].average_rate or container.streams.video[0].guessed_rate
        self.fps: Fraction | None = Fraction(rate) if rate else None
        """Frames a second by the file's own account."""
        with closing(self._frames()) as frames:
            first = next(frames, None)
        if first is None:
            raise SourceError(f"{path}: holds no video frame; name a video file or a folder of images")
        self.height, self.width = first.shape[:2]

    def pictures(self) -> Iterator[tuple[str, Frame]]:
        """(file name and number, uint8 [height, width, 3])."""
        for index, image in enumerate(self._frames()):
            if image.shape[:2] != (self.height, self.width):
                height, width = image.shape[:2]
                raise SourceError(
                    f"{self._path}: the size changes from {self.width}x{self.height} to {width}x{height} at "
                    f"frame {index}; convert it to one size first"
                )
            yield f"{self._path.name}#{index}", image

    def _open(self) -> av.container.InputContainer:
        try:
            container = av.open(str(self._path), options=OPTIONS)
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"{self._path}: {self._reason(error)}") from error
        if not container.streams.video:
            container.close()
            raise SourceError(f"{self._path}: holds no video stream; name a video file or a folder of images")
        return container

    def _frames(self) -> Generator[Frame]:
        count = 0
        with self._open() as container:
            container.streams.video[0].thread_type = "AUTO"
            try:
                for frame in container.decode(video=0):
                    yield to_rgb(frame, str(self._path))
                    count += 1
            except (av.FFmpegError, OSError) as error:
                raise SourceError(
                    f"{self._path}: damaged after frame {count}; repair it or cut it there"
                ) from error

    @staticmethod
    def _reason(error: Exception) -> str:
        if isinstance(error, (av.InvalidDataError, av.ArgumentError)):
            return "not a video file; name a video file or a folder of images"
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
