"""Cameras over RTSP: a real server's frames, and every way in which one fails."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ndsc.sources import SourceError, live, open_source


def test_an_rtsp_address_where_nothing_listens_fails_at_once_and_hides_the_password() -> None:
    start = time.monotonic()
    with pytest.raises(SourceError) as caught:
        open_source("rtsp://user:secret@127.0.0.1:1/stream")
    assert time.monotonic() - start < 3
    assert "rtsp://127.0.0.1:1/stream: Connection refused; check the address" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_rtsp_address_that_says_nothing_fails_within_the_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        start = time.monotonic()
        with pytest.raises(SourceError, match="check the address"):
            open_source(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/stream", live_timeout_s=0.5)
        assert 0.3 < time.monotonic() - start < 5


class RtspServer:
    """One camera for one client: MPEG-4 video (RFC 6416) interleaved in the RTSP connection (RFC 2326).

    Sends one frame for each level released with `send`, then nothing until `hang_up`.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://user:secret@127.0.0.1:{self._listener.getsockname()[1]}/stream"
        self.playing = threading.Event()
        self._connection: socket.socket | None = None
        self._count = 0
        self._encoder = av.CodecContext.create("mpeg4", "w")
        assert isinstance(self._encoder, av.VideoCodecContext)
        self._encoder.width, self._encoder.height, self._encoder.pix_fmt = 64, 48, "yuv420p"
        self._encoder.time_base = Fraction(1, 10)
        self._encoder.bit_rate = 4_000_000
        self._encoder.gop_size = 1
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client leaves when it likes
            self._serve()

    def _serve(self) -> None:
        self._connection, _ = self._listener.accept()
        with self._connection, self._connection.makefile("rb") as requests:
            while line := requests.readline():
                method = line.split()[0].decode()
                number = b"0"
                while header := requests.readline().strip():
                    if header.lower().startswith(b"cseq:"):
                        number = header.split(b":")[1].strip()
                extra, body = b"", b""
                if method == "DESCRIBE":
                    extra = b"Content-Type: application/sdp\r\n"
                    body = (
                        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n"
                        b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\na=control:video\r\n"
                    )
                elif method == "SETUP":
                    extra = b"Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                self._connection.sendall(
                    b"RTSP/1.0 200 OK\r\nCSeq: "
                    + number
                    + b"\r\n"
                    + extra
                    + b"Content-Length: "
                    + str(len(body)).encode()
                    + b"\r\n\r\n"
                    + body
                )
                if method == "PLAY":
                    self.playing.set()
                if method == "TEARDOWN":
                    return

    def send(self, level: int) -> None:
        assert self._connection is not None
        assert isinstance(self._encoder, av.VideoCodecContext)
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
        frame.pts = self._count
        for packet in self._encoder.encode(frame):
            self._count += 1
            header = struct.pack(">BBHII", 0x80, 0x80 | 96, self._count, self._count * 9000, 7)
            data = header + bytes(packet)
            self._connection.sendall(struct.pack(">cBH", b"$", 0, len(data)) + data)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):  # the client may have gone first
            (self._connection or self._listener).shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()


@pytest.fixture
def rtsp_server() -> Iterator[RtspServer]:
    server = RtspServer()
    try:
        yield server
    finally:
        server.hang_up()


def start_sending(server: RtspServer, levels: list[int]) -> None:
    def send() -> None:
        server.playing.wait(10)
        with contextlib.suppress(OSError):
            for level in levels:
                server.send(level)

    threading.Thread(target=send, daemon=True).start()


def test_an_rtsp_camera_gives_frames_with_arrival_times(rtsp_server: RtspServer) -> None:
    start_sending(rtsp_server, [20 * number for number in range(1, 11)])
    before_us = time.time_ns() // 1000
    source = open_source(rtsp_server.url, limit=4)
    assert (source.width, source.height, source.clock) == (64, 48, "unsynchronized")
    frames = list(source)
    after_us = time.time_ns() // 1000
    times = [before_us, source.epoch_us, *(frame.capture_time_us for frame in frames), after_us]
    assert times == sorted(times)
    assert len(frames) == 4
    levels = [float(frame.image[-8:, -8:].mean()) for frame in frames]
    assert levels == pytest.approx([levels[0] + 20 * number for number in range(4)], abs=3)
    assert "secret" not in frames[0].name


def test_an_rtsp_camera_that_falls_silent_is_reported(rtsp_server: RtspServer) -> None:
    start_sending(rtsp_server, [50] * 10)
    source = open_source(rtsp_server.url, live_timeout_s=0.5)
    with pytest.raises(SourceError, match=r"rtsp://127\.0\.0\.1:\d+/stream: .*; check the address"):
        list(source)


def test_an_rtsp_camera_that_hangs_up_is_reported(rtsp_server: RtspServer) -> None:
    start_sending(rtsp_server, [50] * 10)
    frames = iter(open_source(rtsp_server.url))
    next(frames)
    rtsp_server.hang_up()
    with pytest.raises(SourceError, match="check the address"):
        list(frames)


def test_a_closed_live_source_gives_nothing_more(rtsp_server: RtspServer) -> None:
    start_sending(rtsp_server, [50] * 10)
    source = open_source(rtsp_server.url)
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []
    assert list(source) == []


def test_a_live_frame_that_cannot_be_converted_is_reported(
    rtsp_server: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_sending(rtsp_server, [50] * 10)
    frames = iter(open_source(rtsp_server.url))
    next(frames)

    def fail(*_: object) -> NDArray[np.uint8]:
        raise av.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(live, "to_rgb", fail)
    with pytest.raises(SourceError, match="Invalid argument; check the address"):
        next(frames)
