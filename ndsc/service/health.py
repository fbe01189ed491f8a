"""Asks any service of this package how it is, by grpc.health.v1."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from ndsc.service.channel import open_channel
from ndsc.service.diagnosis import diagnose
from ndsc.service.errors import service_error, unreachable
from ndsc.service.tls import Certificates


async def check_health(
    address: str,
    service: str = "",
    timeout_s: float = 5.0,
    *,
    certificates: Certificates | None = None,
    token: str | None = None,
    name: str | None = None,
    rig: str | None = None,
) -> str:
    """Status name of `service` at "host:port": SERVING, NOT_SERVING, UNKNOWN or SERVICE_UNKNOWN.

    SERVING means warm, and for a camera node that its session is open. The empty service name asks for the
    whole; a full one, such as "ndsc.v1.DecodeService", for that service. `certificates`, `token`, `name` and
    `rig` are those of `open_channel`; a proxy asks the decoder of that rig. Raises UnreachableError when
    nothing answers in time, ServiceError otherwise.
    """
    async with open_channel(address, certificates, token, name=name, rig=rig) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ] = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                files = None if certificates is None else certificates.files
                why = await asyncio.to_thread(diagnose, address, files, name=name)
                raise unreachable(address, why) from error
            raise service_error(error, address) from error
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
