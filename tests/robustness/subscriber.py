"""Someone who subscribes to pictures and does not read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc.aio

from ndsc.service.tls import load_certificates
from ndsc.v1.decode_pb2 import SubscribeRequest
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from tests.robustness.credentials import RIG
from tests.robustness.rig import Rig

# Else gRPC takes megabytes of pictures ahead of the reader.
_OPTIONS: Final = (("grpc.http2.bdp_probe", 0),)
_TIMEOUT_S: Final = 10.0


class Subscriber:
    """A Subscribe call whose answers wait."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def missed(self) -> int:
        """Read on to the first report of missed pictures → how many. Raises TimeoutError."""
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                answer = await self._call.read()
                if answer.WhichOneof("message") == "missed":
                    missed: int = answer.missed.frames
                    return missed


@asynccontextmanager
async def subscribing(rig: Rig) -> AsyncIterator[Subscriber]:
    """Subscribe to all pictures of the rig."""
    credentials = load_certificates(rig.credentials.client()).channel_credentials()
    async with grpc.aio.secure_channel(rig.address, credentials, options=_OPTIONS) as channel:
        call: Any = DecodeServiceStub(channel).Subscribe(SubscribeRequest(rig=RIG))
        await call.read()
        try:
            yield Subscriber(call)
        finally:
            call.cancel()
