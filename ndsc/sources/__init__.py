"""Where frames come from: folders, video files, cameras, RTSP addresses and the built-in synthetic drive.

with contextlib.closing(open_source("clip.mp4")) as source:
    for frame in source:  # in real time; realtime=False takes them as fast as they come
        frame.image, frame.capture_time_us
"""

from ndsc.sources.address import open_source
from ndsc.sources.source import Clock, Source, SourceError, SourceFrame, SystemTimer, Timer

__all__ = ["Clock", "Source", "SourceError", "SourceFrame", "SystemTimer", "Timer", "open_source"]
