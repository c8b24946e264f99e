"""The command line: it reads options and prints; the work is elsewhere."""

from .app import app
from .bench import bench
from .check import check, explain
from .train import encode, reconstruct, train

__all__ = ["app", "bench", "check", "encode", "explain", "reconstruct", "train"]
