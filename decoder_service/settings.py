"""What the decoder server can be told: flags, environment (NDSC_DECODER_…) or a TOML file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from ndsc.service.identity import is_name
from ndsc.service.settings import Names, Paths, ServiceSettings, service_config, split_address

MAX_CREDIT_FRAMES = 1024


class DecoderSettings(ServiceSettings):
    """Settings of `python -m decoder_service` and `ndsc serve decoder`."""

    model_config = service_config(program="ndsc serve decoder", env_prefix="NDSC_DECODER_")

    listen: str = Field("127.0.0.1:50051", description="address to serve at, host:port; port 0: a free one")
    bundle: Paths = Field((), description="bundles to serve, directories or zips; default: the shipped one")
    pair_tolerance_ms: int = Field(
        50, ge=0, le=60_000, description="largest time between a frame and its side information"
    )
    pair_wait_ms: int = Field(
        250, ge=0, le=60_000, description="longest wait of an arrived frame for its side information"
    )
    side_information_capacity_frames: int = Field(
        64, ge=1, le=100_000, description="side-information frames held of each stream; the oldest go first"
    )
    side_information_capacity_mbytes: int = Field(
        256, ge=8, le=1 << 20, description="MiB for all held side information; the oldest go first"
    )
    max_sessions: int = Field(
        32,
        ge=1,
        le=10_000,
        description="open camera sessions, and likewise side-information streams, and subscribers",
    )
    max_decodes: int = Field(
        16, ge=1, le=10_000, description="Decode calls under way at once; more are refused, to be tried again"
    )
    credit_frames: int = Field(
        4, ge=1, le=MAX_CREDIT_FRAMES, description="frames that a node may have unacknowledged"
    )
    credit_bytes: int = Field(
        1 << 20,
        ge=1024,
        description="payload bytes that a camera node may have unacknowledged; one frame fits in any case",
    )
    heartbeat_interval_ms: int = Field(
        2_000, ge=50, le=60_000, description="longest silence on a stream; after three a node is given up"
    )
    handshake_timeout_s: float = Field(5.0, gt=0, le=60, description="longest wait for a stream to open")
    write_frames: Path | None = Field(
        None, description="folder that decoded frames are written to, as RIG/CAMERA/SESSION/SEQUENCE.png"
    )
    archive: Path | None = Field(
        None,
        description="folder of the durable store; without it, nodes that ask for delivery ARCHIVE are refused",
    )
    archive_hours: float = Field(
        24.0,
        gt=0,
        le=24 * 366,
        description="how long decoded compressed frames and their side information stay in the store: the "
        "longest outage after which a node's spool still decodes as well",
    )
    archive_capacity_mbytes: int = Field(
        8192,
        ge=1,
        le=1 << 30,
        description="MiB that the store may take; beyond it the oldest decoded frames and side information go "
        "early, frames not decoded yet never: new ones are refused instead",
    )
    archive_pair_wait_ms: int = Field(
        30_000,
        ge=0,
        le=3_600_000,
        description="longest wait of a stored frame for its side information, which may be late as well",
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=256,
        description="frames of one size decoded in one run of the network; default: 8 on a GPU, 1 on a CPU, "
        "which gains nothing by more",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads for all networks together; 0 takes one for each core"
    )
    max_pixels: int | None = Field(
        None, ge=1, description="largest frame taken, in pixels; default: what the bundles can decode"
    )
    listen_clients: str | None = Field(
        None,
        description="second address, for people and tools: TLS without client certificates, bearer tokens, "
        "Decode, Subscribe and lists only",
    )
    token_key: Path | None = Field(
        None, description="public key (PEM) that bearer tokens are verified with; see `ndsc token`"
    )
    attach: Names = Field(
        (),
        description="side information that the server reads itself, RIG/CAMERA=SOURCE, where SOURCE is a "
        "folder, a video file, camera:/dev/videoN, rtsp://… or synthetic:right",
    )
    attach_fps: float | None = Field(None, gt=0, le=1000, description="frames a second of attached files")
    attach_epoch: float | None = Field(
        None,
        ge=0,
        le=253_402_300_799,
        description="capture time of the first frame of attached files, seconds since 1970; nodes that play "
        "files must be given the same --epoch, else their frames do not pair in time",
    )
    attach_loop: bool = Field(False, description="play attached files again and again")
    drain_seconds: float = Field(5.0, gt=0, le=600, description="longest time to finish after SIGTERM")
    subscriber_queue_frames: int = Field(
        16, ge=1, le=1024, description="pictures held for a slow subscriber; beyond it the oldest are missed"
    )

    @field_validator("listen_clients")
    @classmethod
    def _check_listen_clients(cls, listen: str | None) -> str | None:
        if listen is not None:
            split_address(listen)
        return listen

    @model_validator(mode="after")
    def _check_tokens(self) -> DecoderSettings:
        if self.listen_clients is not None and self.tls_ca is None:
            raise ValueError(
                "listen-clients: tokens are taken over TLS alone; give --tls-ca, --tls-certificate and --tls-key"
            )
        if self.listen_clients is not None and self.token_key is None:
            raise ValueError(
                "token-key: clients at --listen-clients show tokens; give the public key of `ndsc token keys`"
            )
        if self.listen_clients is None and self.token_key is not None:
            raise ValueError(
                "listen-clients: tokens are taken at an address of their own; give --listen-clients"
            )
        return self

    @field_validator("attach")
    @classmethod
    def _check_attach(cls, attach: tuple[str, ...]) -> tuple[str, ...]:
        streams = [split_attachment(entry)[:2] for entry in attach]
        if len(set(streams)) != len(streams):
            raise ValueError("each RIG/CAMERA can have one source")
        return attach


def split_attachment(entry: str) -> tuple[str, str, str]:
    """RIG/CAMERA=SOURCE → (rig, camera, source address). Raises ValueError with one clear line."""
    stream, _, source = entry.partition("=")
    rig, _, camera = stream.partition("/")
    if not (is_name(rig) and is_name(camera) and source):
        raise ValueError(f"{entry!r} is not RIG/CAMERA=SOURCE, such as rig/right=synthetic:right")
    return rig, camera, source
