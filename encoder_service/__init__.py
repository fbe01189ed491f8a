"""The camera node: a source's frames, compressed alone and streamed to a decoder, or side information."""

import ndsc.service  # noqa: F401  (it sets how much gRPC logs, before gRPC is imported)
