"""Decides which files of a delivery OMERO reads together, which are attached, and which stay: rules first, then Bio-Formats.

The order: names that OMERO cannot store · OME-Zarr folders · the route's rules · Bio-Formats (or, without Java, the little that
is certain) · sidecars. What nobody can decide is a finding; a wrong guess would be seen in OMERO only, if at all.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lading.delivery import Parcel
from lading.findings import Finding, error, note, warning
from lading.listing.names import printable
from omero_importer import file_rules, formats, sidecar
from omero_importer.bioformats import BioFormats, Failure, NoReading, Reading
from omero_importer.client_paths import path_findings
from omero_importer.file_rules import FileSettings
from omero_importer.filesets import FilesetPlan, FilesetsDecision
from omero_importer.grouping import FindingsCollected, Groups
from omero_importer.self_contained import SelfContained, Undecided
from omero_importer.zarr_folders import READER, REQUIRED_DIRS, ZarrFolder, zarr_findings, zarr_folders

_NAME_IT = "name it in attach, leave_out or filesets of the route's import.files"


class UsedFiles:
    """Decides about parcels by `settings`, with `bioformats` where it is there. Implements `filesets.Decide`."""

    def __init__(self, settings: FileSettings | None = None, bioformats: BioFormats | None = None) -> None:
        self._settings = settings or FileSettings()
        self._bioformats = bioformats

    def __call__(self, parcel: Parcel, skips: Mapping[str, str]) -> FilesetsDecision:
        """The decision. Reads metadata files and heads of images, never pixels. Raises ConfigError when Java does not start."""
        work = _Work(parcel, dict(skips), self._settings)
        paths = [entry.path for entry in parcel.manifest if entry.path not in skips]
        work.findings.add(path_findings(paths))
        if work.findings.refuse:
            return FilesetsDecision((), findings=work.findings.all(), left_out=work.left_out)
        free = _by_rules(work, _zarrs(work, paths))
        others = _certain(work, free) if self._bioformats is None else _asked(work, free, self._bioformats)
        for path in others:
            _no_image(work, path)
        return _decision(work)


@dataclass(slots=True)
class _Work:
    parcel: Parcel
    left_out: dict[str, str]
    settings: FileSettings
    groups: Groups = field(default_factory=Groups)
    zarrs: list[FilesetPlan] = field(default_factory=list)
    attachments: list[str] = field(default_factory=list)
    findings: FindingsCollected = field(default_factory=FindingsCollected)

    def group(self, plan: FilesetPlan, *, pinned: bool = False) -> None:
        problem = self.groups.add(plan, pinned=pinned)
        if problem:
            self.findings.add([problem])

    @property
    def root(self) -> str:
        # Bio-Formats answers with the path it was asked by; some readers resolve links on the way.
        return os.path.realpath(self.parcel.root)


def _zarrs(work: _Work, paths: list[str]) -> list[str]:
    """The paths that are in no Zarr folder; each Zarr folder has become a fileset."""
    folders = zarr_folders(paths)
    if not folders:
        return paths
    inside: dict[str, list[str]] = {folder.root: [] for folder in folders}
    free: list[str] = []
    for path in paths:
        root = _root_of(path, inside)
        (free if root is None else inside[root]).append(path)
    for folder in folders:
        _zarr(work, folder, inside[folder.root])
    return free


def _root_of(path: str, roots: Mapping[str, object]) -> str | None:
    folder = path
    while folder:
        folder = folder.rpartition("/")[0]
        if folder in roots:
            return folder
    return None


def _zarr(work: _Work, folder: ZarrFolder, files: list[str]) -> None:
    rule = file_rules.matches(work.settings.leave_out, folder.root)
    if rule:
        work.left_out.update(dict.fromkeys(files, f"left out by the rule {rule!r}"))
        return
    work.findings.add(zarr_findings(work.parcel.root, folder))
    if folder.entry:
        others = (path for path in files if path != folder.entry)
        work.zarrs.append(FilesetPlan((folder.entry, *others), READER, REQUIRED_DIRS))


def _by_rules(work: _Work, paths: list[str]) -> list[str]:
    """The paths that no rule decides, sorted."""
    settings, kept = work.settings, []
    for path in sorted(paths):
        if pattern := file_rules.matches(settings.leave_out, path):
            work.left_out[path] = f"left out by the rule {pattern!r}"
        elif file_rules.matches(settings.attach, path):
            work.attachments.append(path)
        else:
            kept.append(path)
    for rule in settings.filesets:
        for entry in kept:
            if entry not in work.groups and file_rules.matches((rule.pattern,), entry):
                work.findings.add(_explicit(work, rule, entry, kept))
    return [path for path in kept if path not in work.groups]


def _explicit(work: _Work, rule: file_rules.FilesetRule, entry: str, paths: list[str]) -> Iterator[Finding]:
    files = [entry]
    for pattern, found in file_rules.companions_of(rule, entry, paths):
        files += [path for path in found if path not in files]
        if not found:
            yield error(
                "companion-missing",
                f"{printable(entry)}: the rule {rule.pattern!r} wants companions {pattern!r}, and there are none",
                path=entry,
                hint="copy them again, or correct the rule",
            )
    work.group(FilesetPlan(tuple(files), rule.reader), pinned=True)


def _asked(work: _Work, paths: list[str], bioformats: BioFormats) -> list[str]:
    """The paths that are no images, as Bio-Formats sees them."""
    known = set(paths)
    asked = [path for path in paths if formats.suffix(path) not in formats.NEVER_IMAGES]
    others = [path for path in paths if formats.suffix(path) in formats.NEVER_IMAGES]
    for path in sorted(asked, key=formats.asking_order):
        if path in work.groups:
            continue
        answer = bioformats.read(work.parcel.root / path)
        if isinstance(answer, Reading):
            work.findings.add(_reading(work, path, answer, known))
        elif answer.failure is Failure.UNKNOWN_FORMAT and not formats.looks_like_image(path):
            others.append(path)
        else:
            work.findings.add([_not_read(path, answer)])
    return [path for path in others if path not in work.groups]


def _reading(work: _Work, path: str, reading: Reading, known: set[str]) -> Iterator[Finding]:
    files = []
    for name in reading.files:
        relative = _relative(work.root, os.fspath(work.parcel.root), name)
        if relative is None:
            yield error(
                "fileset-leaves-delivery",
                f"{printable(path)} draws in {printable(name):.200}, which is not in this delivery",
                path=path,
                hint="send all files of the image in one delivery",
            )
            return
        if relative not in known:
            yield error(
                "fileset-file-absent",
                f"{printable(path)} needs {printable(relative):.200}, which is not sent (filtered, left out or attached)",
                path=path,
                hint="send it too, or leave the image out as well",
            )
            return
        if relative not in files:
            files.append(relative)
    if path not in files:
        files.append(path)
    if reading.reader == formats.PLAIN_TIFF_READER and formats.claims_ome_tiff(path):
        yield warning(
            "ome-tiff-without-ome-xml",
            f"{printable(path)} is called OME-TIFF, but Bio-Formats finds no OME-XML in it",
            path=path,
            hint="was it cut off, or named by hand?",
        )
    work.group(FilesetPlan(tuple(files), reading.reader, reading.required_dirs, reading.series))


def _relative(root: str, given: str, name: str) -> str | None:
    plain = os.path.normpath(name)
    for base in (root, os.path.normpath(given)):
        if plain.startswith(base + os.sep):
            return plain[len(base) + 1 :].replace(os.sep, "/")
    return None


def _not_read(path: str, answer: NoReading) -> Finding:
    code = {
        Failure.UNKNOWN_FORMAT: "image-unknown-format",
        Failure.MISSING_LIBRARY: "image-missing-library",
        Failure.UNREADABLE: "image-unreadable",
        Failure.TIMEOUT: "bioformats-timeout",
        Failure.CRASHED: "bioformats-crashed",
    }[answer.failure]
    return error(
        code, f"{printable(path)}: {printable(answer.message)}", path=path, hint=f"copy it again, or {_NAME_IT}"
    )


def _certain(work: _Work, paths: list[str]) -> list[str]:
    """The paths that are no images for certain, where there is no Bio-Formats."""
    alone = SelfContained(work.parcel.root, set(paths))
    others = []
    for path in sorted(paths, key=formats.asking_order):
        if path in work.groups:
            continue
        if formats.suffix(path) in formats.NEVER_IMAGES:
            others.append(path)
            continue
        try:
            verdict = alone.decide(path)
        except OSError as exc:
            verdict = Undecided(f"it cannot be read: {exc.strerror or exc}")
        if isinstance(verdict, Undecided):
            work.findings.add([_undecided(path, verdict)])
        else:
            work.group(FilesetPlan(verdict.files))
    return others


def _undecided(path: str, verdict: Undecided) -> Finding:
    if verdict.missing:
        return error(
            "companion-missing",
            f"{printable(path)}: {verdict.why}: {printable(verdict.missing):.200} is missing",
            path=path,
            hint="send all files of the image in one delivery",
        )
    return error(
        "fileset-undecided",
        f"which files belong to {printable(path)} is not certain: {verdict.why}",
        path=path,
        hint=f"install Java and lading[bioformats] on the server, or {_NAME_IT}",
    )


def _no_image(work: _Work, path: str) -> None:
    if work.settings.non_images == "refuse" and not sidecar.is_sidecar(path, work.settings.sidecars):
        problem = error("not-an-image", f"{printable(path)} is no image that OMERO reads", path=path, hint=_NAME_IT)
        work.findings.add([problem])
    elif work.settings.non_images == "leave-out":
        work.left_out[path] = "no image"
    else:
        work.attachments.append(path)


def _decision(work: _Work) -> FilesetsDecision:
    filesets = tuple(sorted((*work.groups.plans(), *work.zarrs), key=lambda plan: plan.entry))
    for plan in filesets:
        work.findings.add(_whole(plan))
    if not filesets and not work.findings.refuse:
        work.findings.add([warning("no-images", "nothing in the delivery is an image; its files are attached only")])
    # A sidecar is read even when it is left out: its values, not its bytes, are what OMERO gets then.
    free = sorted({*work.attachments, *(p for p, reason in work.left_out.items() if reason == "no image")})
    values = sidecar.read_all(work.parcel.root, free, filesets, names=work.settings.sidecars)
    work.findings.add(values.findings)
    return FilesetsDecision(
        filesets,
        tuple(sorted(work.attachments)),
        work.findings.all(),
        work.left_out,
        values.session_values,
        values.file_values,
    )


def _whole(plan: FilesetPlan) -> Iterator[Finding]:
    folder = formats.companion_folder(plan.entry)
    if folder and not any(path.startswith(folder + "/") for path in plan.files):
        yield error(
            "companion-missing",
            f"{printable(plan.entry)} is only an index: its images should be in the folder {printable(folder)}",
            path=plan.entry,
            hint="copy the folder again, together with the file",
        )
    if len(plan.files) > 1:
        yield note(
            "fileset-of-files", f"{printable(plan.entry)} is one fileset of {len(plan.files)} files", path=plan.entry
        )
