"""Puts the decoder server together and runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc.aio
import structlog

from decoder_service.attached import AttachedSource, open_attached
from decoder_service.catalog import CatalogServicer
from decoder_service.conversation import Terms
from decoder_service.decode import DecodeServicer
from decoder_service.decoding import Decoders, Workers
from decoder_service.outputs import FolderWriter, Hub
from decoder_service.sessions import FrameStreamServicer, PairingTerms, SessionParts
from decoder_service.settings import DecoderSettings
from decoder_service.side_information import SideInformationStore
from decoder_service.side_streams import SideInformationServicer
from decoder_service.streams import StreamRegistry
from ndsc.codec.bundle import default_bundle_path
from ndsc.codec.runtime import RuntimeOptions
from ndsc.service.server import ServiceServer, announce, create_server, max_message_bytes, run_until_signal
from ndsc.v1 import catalog_pb2_grpc, decode_pb2_grpc, frame_stream_pb2_grpc, side_information_pb2_grpc

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
        workers: Workers,
        attached: Sequence[AttachedSource] = (),
    ) -> None:
        self._settings = settings
        self._attached = attached
        self._workers = workers
        self._decoders = decoders
        self._registry = StreamRegistry(settings.max_sessions)
        self.store = SideInformationStore(
            capacity_frames=settings.side_information_capacity_frames,
            capacity_bytes=settings.side_information_capacity_mbytes << 20,
        )
        self._hub = Hub(
            capacity_frames=settings.subscriber_queue_frames, max_subscribers=settings.max_sessions
        )
        self._decode = DecodeServicer(
            decoders=decoders,
            store=self.store,
            registry=self._registry,
            hub=self._hub,
            workers=workers,
            tolerance_us=settings.pair_tolerance_ms * 1000,
            max_decodes=settings.max_decodes,
        )
        self._server: ServiceServer | None = None

    @classmethod
    def load(cls, settings: DecoderSettings) -> DecoderServer:
        """Load the bundles and open the attached sources; blocks. Raises NdscError."""
        workers = Workers()
        options = RuntimeOptions(provider=settings.provider, threads=settings.threads)
        decoders = Decoders.load(settings.bundle or (default_bundle_path(),), options, workers)
        return cls(settings, decoders, workers, open_attached(settings))

    @property
    def server(self) -> ServiceServer:
        """The started server."""
        if self._server is None:
            raise RuntimeError("the server has not been started")
        return self._server

    async def start(self) -> None:
        """Answer at the address; health stays NOT_SERVING until `warm_up`. Raises ListenError."""
        self._server = await create_server(
            listen=self._settings.listen,
            register=self._register,
            service_names=SERVICE_NAMES,
            reflect=self._settings.reflection,
            max_receive_bytes=max_message_bytes(self._decoders.max_pixels),
        )
        for source in self._attached:
            source.start(self._registry, self.store)

    async def warm_up(self) -> None:
        """Decode once with every bundle, then be SERVING. Raises ProviderError or BundleError."""
        await self._decoders.warm_up()
        await self.server.set_serving(True)

    async def drain(self) -> None:
        """Finish what nodes and clients have begun. When cancelled, break off what is left."""
        try:
            await self._registry.drain()
            await self._decode.idle()
            await self._hub.drain()
        finally:
            self._registry.end_all()
            self._hub.close()

    def close(self) -> None:
        """Let go of the threads."""
        self._workers.close()

    def _register(self, server: grpc.aio.Server) -> None:
        settings = self._settings
        terms = Terms(settings.credit_frames, settings.credit_bytes, settings.heartbeat_interval_ms)
        writer = None if settings.write_frames is None else FolderWriter(settings.write_frames, self._workers)
        parts = SessionParts(
            registry=self._registry,
            store=self.store,
            decoders=self._decoders,
            workers=self._workers,
            hub=self._hub,
            writer=writer,
            pairing=PairingTerms(settings.pair_tolerance_ms * 1000, settings.pair_wait_ms / 1000),
        )
        frame_stream_pb2_grpc.add_FrameStreamServiceServicer_to_server(
            FrameStreamServicer(terms=terms, handshake_timeout_s=settings.handshake_timeout_s, parts=parts),
            server,
        )
        side_information_pb2_grpc.add_SideInformationServiceServicer_to_server(
            SideInformationServicer(
                terms=terms,
                handshake_timeout_s=settings.handshake_timeout_s,
                max_pixels=self._decoders.max_pixels,
                registry=self._registry,
                store=self.store,
                workers=self._workers,
            ),
            server,
        )
        decode_pb2_grpc.add_DecodeServiceServicer_to_server(self._decode, server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(
            CatalogServicer(decoders=self._decoders, registry=self._registry, provider=settings.provider),
            server,
        )


async def serve(settings: DecoderSettings) -> None:
    """Run the service until a signal ends it. Raises NdscError when it cannot start."""
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
        decoder.close()


async def _warm_up(decoder: DecoderServer, stop: asyncio.Event) -> None:
    try:
        await decoder.warm_up()
    except Exception:
        stop.set()
        raise
    _log.info("serving", port=decoder.server.port)
    announce("ready", port=decoder.server.port)
