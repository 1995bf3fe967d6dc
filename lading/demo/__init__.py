"""The main job, shown on real DICOM with a stand-in XNAT, and on real images with a stand-in OMERO: `make demo`, or
`python -m lading.demo --root FOLDER`.
"""
