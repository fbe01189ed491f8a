"""The demo: both services as processes on loopback, a stereo pair of streams, a table and a picture."""

from ndsc.demo.run import run_demo

__all__ = ["run_demo"]
