"""The command line: it reads options and prints; the work is elsewhere."""

from .app import app
from .check import check, explain
from .train import encode, reconstruct, train

__all__ = ["app", "check", "encode", "explain", "reconstruct", "train"]
