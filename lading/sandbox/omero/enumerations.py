"""The values that OMERO's enumerations have from the start, as far as anybody asks for them."""

from lading.sandbox.omero.permissions import PRIVILEGES

_FORMATS = (
    "Bio-Rad", "BMP", "CellH5", "CellVoyager", "Companion/Fake", "Companion/OME-XML", "CV7000", "Deltavision", "DICOM",
    "EPS", "Fake", "FITS", "Flex", "GIF", "ICS", "Imaris", "InCell", "JPEG", "JPEG-2000", "LeicaLIF", "LIF", "LSM",
    "Micro-Manager", "MIAS", "MRC", "ND2", "Nikon", "OME", "OME-TIFF", "OME-XML", "Operetta", "PGM", "PICT", "PNG",
    "ScanR", "SVS", "Text", "TIFF", "VSI", "Zarr", "ZeissCZI", "ZeissZVI", "text/csv", "text/plain",
)  # fmt: skip

VALUES: dict[str, tuple[str, ...]] = {
    "AcquisitionMode": ("Other", "Unknown", "WideField", "LaserScanningConfocalMicroscopy", "SlitScanConfocal"),
    "AdminPrivilege": PRIVILEGES,
    "Binning": ("1x1", "2x2", "4x4", "8x8"),
    "ChecksumAlgorithm": (
        "Adler-32", "CRC-32", "File-Size-64", "MD5-128", "Murmur3-32", "Murmur3-128", "SHA1-160",
    ),
    "ContrastMethod": ("Other", "Unknown", "Brightfield", "Phase", "DIC", "Fluorescence"),
    "DimensionOrder": ("XYZCT", "XYCZT", "XYZTC", "XYCTZ", "XYTZC", "XYTCZ"),
    "EventType": ("Bootstrap", "Internal", "Sessions", "System", "Task", "Test", "Update", "User"),
    "ExperimentType": ("Other", "Unknown", "FP", "FRET", "TimeLapse"),
    "Family": ("exponential", "linear", "logarithmic", "polynomial"),
    "Format": _FORMATS,
    "Illumination": ("Other", "Unknown", "Transmitted", "Epifluorescence", "Oblique", "NonLinear"),
    "Immersion": ("Other", "Unknown", "Oil", "Water", "Air", "Multi", "Glycerol"),
    "JobStatus": ("Submitted", "Resubmitted", "Queued", "Requeued", "Running", "Finished", "Error", "Cancelled", "Waiting"),
    "MicroscopeType": ("Other", "Unknown", "Upright", "Inverted", "Dissection", "Electrophysiology"),
    "PhotometricInterpretation": ("RGB", "Monochrome", "ARGB", "CMYK", "HSV", "ColorMap"),
    "PixelsType": (
        "bit", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float", "double", "complex", "double-complex",
    ),
    "RenderingModel": ("rgb", "greyscale", "hsb", "hsl"),
}  # fmt: skip
