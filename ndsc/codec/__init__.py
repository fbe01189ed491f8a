"""Frame ↔ indices ↔ bytes. Knows no gRPC and no torch."""
