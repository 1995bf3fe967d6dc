"""Lading carries imaging data from the instrument to OMERO and XNAT, and proves that it arrived."""

__version__ = "0.1.0"
