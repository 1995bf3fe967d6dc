"""What file names say about image formats: the little that is certain without opening a file.

Used to ask Bio-Formats in a good order, to notice what it cannot see (a folder that should be there), and to decide alone,
where no Java runtime is, about formats that always are one file.
"""

import re


def _ordered(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# One file is one fileset, always: what Bio-Formats' readers of these formats never look beyond.
SELF_CONTAINED = _words(
    ".png .jpg .jpeg .jpe .gif .bmp .jp2 .j2k .lif .nd2 .lsm .oib .svs .scn .bif .ndpi .ims .zvi .dm3 .dm4 .mrc .sdt .ser "
    ".ipl .stp .dv .r3d .avi .fits .nrrd .klb .naf .oir .obf .msr .sld .spe"
)
TIFF = _words(".tif .tiff .tf2 .tf8 .btf")

PLAIN_TIFF_READER = "loci.formats.in.TiffDelegateReader"

# Entry points: each draws in other files, so they are asked first. In this order.
INDEXES = _ordered(
    ".pattern .companion.ome .vsi .mrxs .xdce .idx.xml .mvd2 .afi .ndpis .vms .vmu .nd .htd .wpi .mes .lei .oif .xlef .flex"
)

# Members of multi-file formats: an image that is never whole by itself.
MEMBERS = _words(".ets .stk .pic .img .hdr .lof .c01 .dib .aim .ome .xml .oif .pty")

# Never images; asked neither of Bio-Formats nor of anybody. They may still belong to a fileset whose reader names them.
NEVER_IMAGES = _words(
    ".txt .csv .tsv .md .rst .pdf .doc .docx .rtf .odt .xls .xlsx .ods .ppt .pptx .log .html .htm .css .js .py .r .m .ipynb "
    ".json .yml .yaml .toml .ini .cfg .md5 .sha1 .sha256 .zip .gz .bz2 .xz .zst .7z .rar .tar .tgz .db .sqlite"
)

_CZI_PART = re.compile(r"(.*) ?\(\d+\)(\.czi)", re.IGNORECASE)

# The folder without which the entry point shows a preview at most, and the reader does not complain.
COMPANION_FOLDERS = {".vsi": "_{stem}_", ".mrxs": "{stem}"}


def suffix(path: str) -> str:
    """The file's extension in lower case, with its dot: that of `INDEXES` where it has two (".companion.ome"); or ""."""
    name = path.rpartition("/")[2].lower()
    for double in (".companion.ome", ".idx.xml"):
        if name.endswith(double):
            return double
    _, dot, rest = name.rpartition(".")
    return dot + rest


def companion_folder(path: str) -> str:
    """The folder (relative POSIX, as `path`) without which the file at `path` is not whole, or ""."""
    template = COMPANION_FOLDERS.get(suffix(path), "")
    folder, slash, name = path.rpartition("/")
    return folder + slash + template.replace("{stem}", name.rpartition(".")[0]) if template else ""


def czi_whole(path: str) -> str:
    """The first file of a CZI in parts, of which `path` is a later one (`a(1).czi` → `a.czi`); else ""."""
    match = _CZI_PART.fullmatch(path)
    return match.group(1) + match.group(2) if match else ""


def claims_ome_tiff(path: str) -> bool:
    """Whether the name says OME-TIFF."""
    return path.lower().endswith(tuple(f".ome{kind}" for kind in TIFF))


def looks_like_image(path: str) -> bool:
    """Whether the name claims to be an image, so that "unknown format" is alarming."""
    kind = suffix(path)
    return kind in SELF_CONTAINED or kind in TIFF or kind in INDEXES or kind in (".czi", ".ets", ".stk", ".dcm", ".lof")


def asking_order(path: str) -> tuple[int, str]:
    """A sort key: entry points of multi-file formats before anything that they may draw in."""
    kind = suffix(path)
    name = path.rpartition("/")[2].lower()
    if kind in INDEXES:
        return INDEXES.index(kind), path
    late = name.startswith("metadata") or kind in MEMBERS
    return (len(INDEXES) + 1 if late else len(INDEXES)), path
