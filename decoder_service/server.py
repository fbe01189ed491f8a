"""Puts the decoder server together and runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import grpc.aio
import structlog

from decoder_service.archive import Archive, AsyncArchive
from decoder_service.attached import AttachedSource, open_attached
from decoder_service.backlog import Backlog
from decoder_service.catalog import CatalogServicer
from decoder_service.conversation import Terms
from decoder_service.decode import DecodeServicer
from decoder_service.decoding import Decoders, Workers
from decoder_service.metrics import DecoderMetrics
from decoder_service.outputs import FolderWriter, Hub
from decoder_service.pictures import PairingTerms, PictureMaker
from decoder_service.publisher import Publisher
from decoder_service.sessions import FrameStreamServicer, SessionParts
from decoder_service.settings import DecoderSettings
from decoder_service.side_information import SideInformationStore
from decoder_service.side_streams import SideInformationServicer, SideParts
from decoder_service.streams import StreamRegistry
from ndsc.codec.bundle import default_bundle_path
from ndsc.codec.errors import ProviderError
from ndsc.codec.runtime import RuntimeOptions
from ndsc.service.authority import Authority
from ndsc.service.history import History
from ndsc.service.metrics import MetricsServer
from ndsc.service.server import ServiceServer, announce, create_server, max_message_bytes, run_until_signal
from ndsc.service.tls import Certificates, watch_certificates
from ndsc.service.tokens import TokenVerifier
from ndsc.service.watched import Watched
from ndsc.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    decode_pb2_grpc,
    frame_stream_pb2_grpc,
    side_information_pb2_grpc,
)

SERVICE_NAMES: Final = (
    "ndsc.v1.FrameStreamService",
    "ndsc.v1.SideInformationService",
    "ndsc.v1.DecodeService",
    "ndsc.v1.CatalogService",
)

_log = structlog.get_logger(__name__)


class DecoderServer:
    """The whole service, on one event loop. Make it with `load`, then `start` and `warm_up`."""

    def __init__(
        self,
        settings: DecoderSettings,
        decoders: Decoders,
        metrics: DecoderMetrics,
        *,
        archive: AsyncArchive | None = None,
        certificates: Watched[Certificates] | None = None,
        authority: Authority | None = None,
        attached: Sequence[AttachedSource] = (),
    ) -> None:
        self._settings = settings
        self._attached = attached
        self._certificates = certificates
        self._authority = authority or Authority()
        self._archive = archive
        self._decoders = decoders
        self._metrics = metrics
        self._workers = Workers()
        self._history = History(settings.history, side="decoder")
        self._registry = StreamRegistry(settings.max_sessions)
        self.store = SideInformationStore(
            capacity_frames=settings.side_information_capacity_frames,
            capacity_bytes=settings.side_information_capacity_mbytes << 20,
        )
        self._hub = Hub(
            capacity_frames=settings.subscriber_queue_frames,
            max_subscribers=settings.max_sessions,
            metrics=metrics,
        )
        self._pairing = PairingTerms(
            settings.pair_tolerance_ms * 1000,
            settings.pair_wait_ms / 1000,
            settings.archive_pair_wait_ms / 1000,
        )
        self._publisher = Publisher(
            hub=self._hub,
            store=self.store,
            registry=self._registry,
            history=self._history,
            metrics=metrics,
        )
        self._maker = PictureMaker(
            store=self.store,
            archive=archive,
            decoders=decoders,
            workers=self._workers,
            writer=None
            if settings.write_frames is None
            else FolderWriter(settings.write_frames, self._workers),
            tolerance_us=self._pairing.tolerance_us,
            metrics=metrics,
        )
        self._backlog = (
            None
            if archive is None
            else Backlog(
                archive,
                self._maker,
                self._publisher,
                self._registry,
                self._pairing,
                history=self._history,
                metrics=metrics,
            )
        )
        self._decode = DecodeServicer(
            decoders=decoders,
            store=self.store,
            registry=self._registry,
            authority=self._authority,
            hub=self._hub,
            workers=self._workers,
            tolerance_us=self._pairing.tolerance_us,
            max_decodes=settings.max_decodes,
            max_pixels=self.max_pixels,
        )
        self._server: ServiceServer | None = None
        self._metrics_server: MetricsServer | None = None
        self.serving = False
        """Whether health says so."""

    @classmethod
    def load(cls, settings: DecoderSettings) -> DecoderServer:
        """Load the bundles, open the archive and the attached sources; blocks. Raises NdscError."""
        metrics = DecoderMetrics(max_streams=8 * settings.max_sessions)
        metrics.build(version=version("ndsc"), provider=settings.provider)
        files = settings.certificate_files()
        tokens = None if settings.token_key is None else TokenVerifier(settings.token_key)
        certificates = None if files is None else watch_certificates(files)
        decoders = Decoders.load(
            settings.bundle or (default_bundle_path(),),
            RuntimeOptions(provider=settings.provider, threads=settings.threads),
            max_batch=settings.max_batch,
            observe=metrics.ran,
        )
        attached = open_attached(settings)
        archive = (
            None if settings.archive is None else AsyncArchive(_open_archive(settings, settings.archive))
        )
        return cls(
            settings,
            decoders,
            metrics,
            archive=archive,
            certificates=certificates,
            authority=Authority(tokens),
            attached=attached,
        )

    @property
    def server(self) -> ServiceServer:
        """The started server."""
        if self._server is None:
            raise RuntimeError("the server has not been started")
        return self._server

    @property
    def max_pixels(self) -> int:
        """The largest frame taken: what the bundles can decode, or less by the settings."""
        return min(self._decoders.max_pixels, self._settings.max_pixels or self._decoders.max_pixels)

    async def start(self) -> None:
        """Answer at the address; health stays NOT_SERVING until `warm_up`. Raises ListenError."""
        if self._settings.metrics_listen is not None:
            self._watch_metrics()
            self._metrics_server = MetricsServer.start(self._settings.metrics_listen, self._metrics.registry)
        self._server = await create_server(
            listen=self._settings.listen,
            register=self._register,
            service_names=SERVICE_NAMES,
            reflect=self._settings.reflection,
            max_receive_bytes=max_message_bytes(self.max_pixels),
            certificates=self._certificates,
            authority=self._authority,
            listen_clients=self._settings.listen_clients,
        )
        self._history.record("start")

    async def warm_up(self) -> None:
        """Decode once with every bundle, then be SERVING. Raises ProviderError or BundleError."""
        await self._decoders.prepare()
        for source in self._attached:
            source.start(self._registry, self.store, self._hub)
        if self._backlog is not None:
            await self._backlog.start()
        self.serving = True
        await self.server.set_serving(True)

    async def drain(self) -> None:
        """Finish what nodes and clients have begun. When cancelled, break off what is left."""
        self.serving = False
        try:
            await self._registry.drain()
            await self._decode.idle()
            if self._backlog is not None:
                await self._backlog.close()
            await self._hub.drain()
        finally:
            self._registry.end_all()
            self._hub.close()

    async def close(self) -> None:
        """Let go of the threads and the archive."""
        if self._backlog is not None:
            await self._backlog.close()
        if self._archive is not None:
            await self._archive.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        self._workers.close()
        self._decoders.close()

    def _register(self, server: grpc.aio.Server) -> None:
        settings = self._settings
        terms = Terms(settings.credit_frames, settings.credit_bytes, settings.heartbeat_interval_ms)
        sessions = SessionParts(
            registry=self._registry,
            authority=self._authority,
            decoders=self._decoders,
            workers=self._workers,
            maker=self._maker,
            publisher=self._publisher,
            pairing=self._pairing,
            archive=self._archive,
            backlog=self._backlog,
            history=self._history,
            metrics=self._metrics,
            max_pixels=self.max_pixels,
        )
        frame_stream_pb2_grpc.add_FrameStreamServiceServicer_to_server(
            FrameStreamServicer(
                terms=terms, handshake_timeout_s=settings.handshake_timeout_s, parts=sessions
            ),
            server,
        )
        sides = SideParts(
            registry=self._registry,
            authority=self._authority,
            store=self.store,
            hub=self._hub,
            archive=self._archive,
            workers=self._workers,
            history=self._history,
            metrics=self._metrics,
            max_pixels=self.max_pixels,
        )
        side_information_pb2_grpc.add_SideInformationServiceServicer_to_server(
            SideInformationServicer(
                terms=terms, handshake_timeout_s=settings.handshake_timeout_s, parts=sides
            ),
            server,
        )
        decode_pb2_grpc.add_DecodeServiceServicer_to_server(self._decode, server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(
            CatalogServicer(
                decoders=self._decoders,
                registry=self._registry,
                authority=self._authority,
                provider=settings.provider,
            ),
            server,
        )

    def _watch_metrics(self) -> None:
        watch = self._metrics.watch
        watch("open_cameras", lambda: self._registry.open_streams(catalog_pb2.STREAM_KIND_CAMERA))
        watch(
            "open_side_streams",
            lambda: self._registry.open_streams(catalog_pb2.STREAM_KIND_SIDE_INFORMATION),
        )
        watch("subscribers", lambda: self._hub.subscribers)
        watch("side_information_frames", lambda: self.store.frames)
        watch("side_information_bytes", lambda: self.store.held_bytes)
        watch("credit_used_frames", lambda: self._registry.frames_in_flight)
        backlog = self._backlog
        if backlog is not None:
            watch("archive_frames", lambda: backlog.usage.frames)
            watch("archive_side_frames", lambda: backlog.usage.side_frames)
            watch("archive_side_frames_lost", lambda: backlog.usage.needed_side_frames_lost)
            watch("archive_waiting_frames", lambda: backlog.usage.waiting_frames)
            watch("archive_bytes", lambda: backlog.usage.used_bytes)
        watch("serving", lambda: float(self.serving))


def _open_archive(settings: DecoderSettings, folder: Path) -> Archive:
    return Archive(
        folder,
        capacity_bytes=settings.archive_capacity_mbytes << 20,
        keep_us=round(settings.archive_hours * 3_600_000_000),
        tolerance_us=settings.pair_tolerance_ms * 1000,
    )


async def serve(settings: DecoderSettings) -> None:
    """Run the service until a signal ends it. Raises NdscError when it cannot start.

    A decoder whose provider is absent stays, NOT_SERVING: whoever watches health sees it, and its nodes wait.
    """
    decoder = DecoderServer.load(settings)
    try:
        await decoder.start()
        stop = asyncio.Event()
        warming = asyncio.create_task(_warm_up(decoder, stop))
        await run_until_signal(
            decoder.server, drain_s=settings.drain_seconds, on_drain=decoder.drain, stop=stop
        )
        if warming.done():
            await warming
        else:
            warming.cancel()
    finally:
        await decoder.close()


async def _warm_up(decoder: DecoderServer, stop: asyncio.Event) -> None:
    try:
        await decoder.warm_up()
    except ProviderError as error:
        _log.error("not serving", error=str(error))
        return
    except Exception:
        stop.set()
        raise
    server = decoder.server
    ports = {"port": server.port}
    if server.clients_port is not None:
        ports["clients_port"] = server.clients_port
    _log.info("serving", **ports)
    announce("ready", **ports)
