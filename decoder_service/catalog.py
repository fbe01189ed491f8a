"""Lists what the server serves, bundles and streams with their accounts, and gives nodes their bundles."""

from __future__ import annotations

from typing import Any, Final

import grpc.aio

from decoder_service.decoding import Decoders
from decoder_service.fields import check_bitstream_id, check_name
from decoder_service.streams import Account, StreamRegistry
from ndsc.codec.bundle import MANIFEST
from ndsc.service.authority import Authority
from ndsc.service.errors import RefusedError, abort
from ndsc.service.timestamps import to_timestamp
from ndsc.v1.catalog_pb2 import (
    BundleInfo,
    BundlePiece,
    GetBundleRequest,
    GetBundleResponse,
    ListBundlesRequest,
    ListBundlesResponse,
    ListStreamsRequest,
    ListStreamsResponse,
    StreamInfo,
)
from ndsc.v1.catalog_pb2_grpc import CatalogServiceServicer
from ndsc.v1.types_pb2 import Geometry

_PIECE_BYTES: Final = 1 << 20


class CatalogServicer(CatalogServiceServicer):
    """ListBundles, ListStreams and GetBundle."""

    def __init__(
        self, *, decoders: Decoders, registry: StreamRegistry, authority: Authority, provider: str
    ) -> None:
        self._registry = registry
        self._authority = authority
        self._decoders = decoders
        self._bundles = [
            BundleInfo(
                name=bundle.name,
                bundle_id=bytes.fromhex(bundle.bundle_id),
                bitstream_id=bundle.bitstream_id,
                rate_levels=bundle.rate_level_count,
                max_side=bundle.geometry.max_side,
                max_pixels=bundle.geometry.max_pixels,
                provider=provider,
            )
            for bundle in decoders.bundles
        ]

    async def ListBundles(  # noqa: N802
        self, request: ListBundlesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ListBundlesResponse:
        """See the contract."""
        try:
            self._authority.check(context, role="client")
        except RefusedError as error:
            await abort(context, error.reason, str(error))
        return ListBundlesResponse(bundles=self._bundles)

    async def ListStreams(  # noqa: N802
        self, request: ListStreamsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ListStreamsResponse:
        """See the contract."""
        try:
            if request.rig:
                check_name("rig", request.rig)
            peer = self._authority.check(context, role="client", rig=request.rig or None)
        except RefusedError as error:
            await abort(context, error.reason, str(error))
        accounts = self._registry.accounts(request.rig or peer.rig)
        return ListStreamsResponse(streams=map(_stream_info, accounts))

    # grpc.aio takes a coroutine that writes as well as a generator; a generator is not ended with its call.
    async def GetBundle(  # type: ignore[override]  # noqa: N802
        self, request: GetBundleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """See the contract."""
        try:
            self._authority.check(context, role=("camera", "client"))
            bundle = self._decoders.preferred
            if request.bitstream_id:
                bundle = self._decoders.bundle(check_bitstream_id(request.bitstream_id))
        except RefusedError as error:
            await abort(context, error.reason, str(error))
        await context.write(GetBundleResponse(manifest=bundle.files[MANIFEST]))
        for name in bundle.manifest.listed("encoder"):
            data = bundle.files[name]
            for start in range(0, len(data), _PIECE_BYTES):
                piece = BundlePiece(name=name, data=data[start : start + _PIECE_BYTES])
                await context.write(GetBundleResponse(piece=piece))


def _stream_info(account: Account) -> StreamInfo:
    time_us = account.last_capture_time_us
    return StreamInfo(
        kind=account.key.kind,
        rig=account.key.rig,
        camera=account.key.camera,
        session_id=account.session_id,
        geometry=Geometry(width=account.width, height=account.height),
        open=account.open,
        received=account.received,
        decoded=account.decoded,
        failed=account.failed,
        dropped=account.dropped,
        last_capture_time=None if time_us is None else to_timestamp(time_us),
        received_bytes=account.received_bytes,
        delivery=account.delivery,
        abandoned=account.abandoned,
        waiting=account.waiting,
    )
