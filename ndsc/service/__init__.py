"""What both services and the client share: settings, logs, errors, server, channel, health, images, times."""

import os

# gRPC's core writes its own lines to stderr, beside the typed errors that the package raises for the same
# faults. It reads this once, when grpc is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
