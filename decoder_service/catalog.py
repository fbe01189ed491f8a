"""Lists what the server serves: bundles, and streams with their accounts."""

from __future__ import annotations

from typing import Any

import grpc.aio

from decoder_service.decoding import Decoders
from decoder_service.fields import check_name
from decoder_service.streams import Account, StreamRegistry
from ndsc.service.errors import RefusedError, abort
from ndsc.service.timestamps import to_timestamp
from ndsc.v1.catalog_pb2 import (
    BundleInfo,
    ListBundlesRequest,
    ListBundlesResponse,
    ListStreamsRequest,
    ListStreamsResponse,
    StreamInfo,
)
from ndsc.v1.catalog_pb2_grpc import CatalogServiceServicer
from ndsc.v1.types_pb2 import Geometry


class CatalogServicer(CatalogServiceServicer):
    """ListBundles and ListStreams."""

    def __init__(self, *, decoders: Decoders, registry: StreamRegistry, provider: str) -> None:
        self._registry = registry
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
            for bundle in (decoder.bundle for decoder in decoders.all())
        ]

    async def ListBundles(  # noqa: N802
        self, request: ListBundlesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ListBundlesResponse:
        """See the contract."""
        return ListBundlesResponse(bundles=self._bundles)

    async def ListStreams(  # noqa: N802
        self, request: ListStreamsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ListStreamsResponse:
        """See the contract."""
        try:
            if request.rig:
                check_name("rig", request.rig)
        except RefusedError as error:
            await abort(context, error.reason, str(error))
        return ListStreamsResponse(streams=map(_stream_info, self._registry.accounts(request.rig)))


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
    )
