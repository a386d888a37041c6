"""Reelbook's library: what the notebooks call.  See docs/architecture.md for the map."""

__version__ = "0.1.0"
