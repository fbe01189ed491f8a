"""Neural distributed source coding: cameras compress alone, the decoder server sees another view.

    with ndsc.Client("localhost:50051") as client:
        picture = client.decode(frame, side_information=y).image

`ndsc.codec` turns frames into bytes and back without a server.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndsc.client import Client as Client
    from ndsc.codec.errors import NdscError as NdscError

__all__ = ["Client", "NdscError"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the codec alone must not cost the import of gRPC.
    if name == "Client":
        from ndsc.client import Client

        return Client
    if name == "NdscError":
        from ndsc.codec.errors import NdscError

        return NdscError
    raise AttributeError(f"module 'ndsc' has no attribute {name!r}")
