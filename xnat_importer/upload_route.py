"""Sends DICOM objects to XNAT's prearchive: as zip where that goes through, one by one where it does not.

Never straight into the archive: there every failure looks alike, and an existing session would be merged into unasked.
`Ignore-Unparsable=false` is said aloud, because with it on, and with `action=commit`, a partial import is answered 200.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lading.errors import Refused, TargetMissing
from xnat_importer.contents import DicomFile
from xnat_importer.copies import opened
from xnat_importer.errand import Errand
from xnat_importer.scratch import scratch
from xnat_importer.session import quoted
from xnat_importer.target import demand, uri_list

_TOO_LARGE = 413
_SAFE = "The files are in the inbox."


def send(errand: Errand, files: Sequence[DicomFile]) -> None:
    """Put `files` into the prearchive session of their study and label. Sending them again replaces them.

    Raises Refused (naming the file), TargetMissing, OutOfSpace for the temporary zip, TargetUnavailable.
    """
    _demand_edit_right(errand)
    for part in _parts(files, errand.route.part_mb << 20):
        _send_part(errand, part)


def _demand_edit_right(errand: Errand) -> None:
    # Where we may not edit, the importers say 200 and file the data under another project or under none.
    # Creating the subject is the honest question: it answers 403, and the import would create it anyway.
    target = errand.target
    doing = f"preparing subject {target.subject} in project {target.project}"
    response = errand.session.put(quoted("data", "projects", target.project, "subjects", target.subject), doing=doing)
    demand(response, doing, errand.session.url)


def _parts(files: Sequence[DicomFile], limit: int) -> Iterator[Sequence[DicomFile]]:
    part: list[DicomFile] = []
    size = 0
    for file in files:
        if part and size + file.entry.size > limit:
            yield part
            part, size = [], 0
        part.append(file)
        size += file.entry.size
    if part:
        yield part


def _send_part(errand: Errand, part: Sequence[DicomFile]) -> None:
    if len(part) == 1:
        _send_one(errand, part[0])
        return
    status = _send_zip(errand, part)
    if status == _TOO_LARGE:
        middle = len(part) // 2
        _send_part(errand, part[:middle])
        _send_part(errand, part[middle:])
    elif status == 400:
        # One object of many was refused, for a reason that may be any (even a full disk): alone, each gets its own answer.
        for file in part:
            _send_one(errand, file)


def _send_zip(errand: Errand, part: Sequence[DicomFile]) -> int:
    """The status, when it is one that the caller can do something about: 200, 400, 413."""
    target = errand.target
    doing = f"sending {len(part)} DICOM files of {target}"
    needed = sum(file.entry.size for file in part)
    with scratch(errand.state / "uploads", ".zip", needed) as archive:
        _write_zip(archive, errand, part)
        response = errand.session.post(
            "/data/services/import",
            doing=doing,
            query=[
                ("import-handler", "DICOM-zip"),
                ("PROJECT_ID", target.project),
                ("SUBJECT_ID", target.subject),
                ("EXPT_LABEL", target.session),
                ("dest", f"/prearchive/projects/{target.project}"),
                ("Ignore-Unparsable", "false"),
                ("overwrite", "append"),
                ("inbody", "true"),
            ],
            body=lambda: archive.open("rb"),
            content_type="application/zip",
            timeout=errand.server.upload_timeout,
        )
    if response.status_code in (400, _TOO_LARGE):
        return response.status_code
    demand(response, doing, errand.session.url)
    _demand_own_place(errand, uri_list(response), doing)
    return 200


def _send_one(errand: Errand, file: DicomFile) -> None:
    target = errand.target
    doing = f"sending {file.entry.path} of {target}"
    response = errand.session.post(
        "/data/services/import",
        doing=doing,
        query=[
            ("import-handler", "gradual-DICOM"),
            ("PROJECT_ID", target.project),
            ("SUBJECT_ID", target.subject),
            ("EXPT_LABEL", target.session),
            ("inbody", "true"),
        ],
        body=lambda: opened(errand.root, file.entry, inbox=errand.inbox),
        content_type="application/dicom",
        timeout=errand.server.upload_timeout,
    )
    if response.status_code == _TOO_LARGE:
        raise Refused(
            f"{doing}: the proxy before XNAT refuses a body of {file.entry.size:,} bytes (HTTP 413)",
            safe=_SAFE,
            next_command="raise the proxy's limit (client_max_body_size) or use the inbox route, then: lading retry",
        )
    demand(response, doing, errand.session.url)
    # An empty list is a silent drop (series filter, rejecting script): reading back will find the file missing.
    _demand_own_place(errand, uri_list(response), doing)


def _demand_own_place(errand: Errand, uris: Sequence[str], doing: str) -> None:
    project = errand.target.project
    for uri in uris:
        parts = uri.split("/")
        if "projects" in parts and parts[parts.index("projects") + 1] != project:
            raise TargetMissing(
                f"{doing}: XNAT did not file it under {project} but under {uri}: our account may not edit {project}",
                safe=f"{_SAFE} What was sent lies there until an XNAT administrator moves or deletes it.",
                next_command="lading doctor",
            )


def _write_zip(out: Path, errand: Errand, part: Sequence[DicomFile]) -> None:
    # Not compressed: images hardly shrink.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for number, file in enumerate(part):
            info = zipfile.ZipInfo(_member_name(file.entry.path, number))
            info.file_size = file.entry.size
            copy = opened(errand.root, file.entry, inbox=errand.inbox)
            with copy as source, archive.open(info, "w") as member:
                while block := source.read(1 << 20):
                    member.write(block)


def _member_name(path: str, number: int) -> str:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return f"undecodable-{number:06d}.dcm"
    return path
