"""The agent's locks are everybody's locks."""

from lading.locks import FileLock, held

__all__ = ["FileLock", "held"]
