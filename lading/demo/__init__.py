"""The main job, shown on real DICOM with a stand-in XNAT: `make demo`, or `python -m lading.demo --root FOLDER`."""
