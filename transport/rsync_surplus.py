"""What lies in a slot and is not in the manifest: what interrupted attempts left."""

from collections.abc import Iterator

from lading.listing.entries import order_key
from lading.manifest import Entry, Manifest


def surplus(listed: list[tuple[bool, str]], manifest: Manifest) -> list[str]:
    """The listed paths that the manifest does not know; of a folder without any wanted file only the folder."""
    needed = {""}
    wanted = _noting_folders(manifest, needed)
    entry = next(wanted, None)
    strange: list[str] = []
    for path in sorted((path for is_folder, path in listed if not is_folder), key=order_key):
        while entry is not None and order_key(entry.path) < order_key(path):
            entry = next(wanted, None)
        if entry is None or entry.path != path:
            strange.append(path)
    for _ in wanted:
        pass
    strange += [path for is_folder, path in listed if is_folder and path not in needed]
    return [path for path in strange if path.rpartition("/")[0] in needed]


def _noting_folders(manifest: Manifest, needed: set[str]) -> Iterator[Entry]:
    for entry in manifest:
        folder = entry.path
        while (folder := folder.rpartition("/")[0]) not in needed:
            needed.add(folder)
        yield entry
