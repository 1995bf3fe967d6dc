"""Registers deliveries in XNAT and reads back what it holds."""
