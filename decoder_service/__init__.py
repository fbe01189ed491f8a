"""The decoder server: takes compressed frames and side information, decodes, serves pictures."""

import ndsc.service  # noqa: F401  (it sets how much gRPC logs, before gRPC is imported)
