"""Registers deliveries in OMERO and reads back what it holds."""
