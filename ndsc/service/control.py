"""Asks a camera node how it is, and holds it to a rate, by ndsc.v1.NodeService."""

from __future__ import annotations

from typing import Any

import grpc.aio
from google.protobuf.json_format import MessageToDict

from ndsc.service.channel import open_channel
from ndsc.service.errors import service_error
from ndsc.service.tls import Certificates
from ndsc.v1.node_pb2 import FollowLink, GetNodeRequest, Rate, SetRateRequest
from ndsc.v1.node_pb2_grpc import NodeServiceStub
from ndsc.v1.types_pb2 import Delivery


async def get_node(
    address: str, *, certificates: Certificates | None = None, timeout_s: float = 5.0
) -> dict[str, Any]:
    """The account of the node at "host:port", by the names of GetNodeResponse; the session id in hexadecimal.

    Raises ServiceError.
    """
    async with open_channel(address, certificates) as channel:
        try:
            answer = await NodeServiceStub(channel).GetNode(GetNodeRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise service_error(error, address) from error
    # Protobuf's JSON writes 64-bit numbers as text, which no one wants to read.
    facts = {
        field.name: getattr(answer, field.name)
        for field in answer.DESCRIPTOR.fields
        if field.message_type is None
    }
    return {
        **facts,
        "session_id": answer.session_id.hex(),
        "delivery": Delivery.Name(answer.delivery).removeprefix("DELIVERY_").lower(),
        "rate": MessageToDict(answer.rate, preserving_proto_field_name=True),
    }


async def set_rate(
    address: str,
    *,
    rate_level: int | None = None,
    target_kbps: float | None = None,
    certificates: Certificates | None = None,
    timeout_s: float = 5.0,
) -> None:
    """Hold the node at "host:port" to a level or a rate; with neither, to what its link carries.

    Raises ServiceError, also for a level that its bundle lacks.
    """
    rate = Rate(follow_link=FollowLink())
    if rate_level is not None:
        rate = Rate(rate_level=rate_level)
    elif target_kbps is not None:
        rate = Rate(target_kbps=target_kbps)
    async with open_channel(address, certificates) as channel:
        try:
            await NodeServiceStub(channel).SetRate(SetRateRequest(rate=rate), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise service_error(error, address) from error
