"""A Hub for tests: see `server.LoopbackHub`."""

from .server import Fault, LoopbackHub

__all__ = ["Fault", "LoopbackHub"]
