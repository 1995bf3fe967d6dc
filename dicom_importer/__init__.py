"""Sends deliveries to DICOM nodes and proves that they are there."""
