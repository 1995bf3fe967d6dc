"""Carrying files: one protocol, one file; wrappers are transports too."""
