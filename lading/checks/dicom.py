"""The DICOM of a delivery is whole, belongs to one study, and to the participant it is labelled with."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import attrs

from lading.checks import limited
from lading.checks.dicom_headers import Companion, Header, Problem, require_pydicom
from lading.checks.dicom_scan import scan
from lading.checks.policies import Policy, filled, fits, one_of, valid_template
from lading.config import Settings, structure
from lading.delivery import Labels, Parcel
from lading.findings import Finding, error, warning

_DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
_DOMINANT = 0.9  # below that nobody can say which study was meant
_EXAMPLES = 3
_RANGES = 10
_POLICIES = tuple(Policy)


@attrs.frozen(kw_only=True)
class DicomConfig:
    """Settings of the check `dicom`.

    `required`: a delivery without DICOM is refused. `on_bad_file`: "hold" refuses the session when a DICOM file
    cannot be read, is cut short or is none in spite of its name; "skip" imports the others, these are filtered.
    `other_study`: "skip" also leaves out the files of another study when one study has 90 % of the objects.
    `missing_instances`, `patient_mismatch`, `study_description_mismatch`: "ignore", "warn" or "reject".
    `patient_id`, `patient_name`, `study_description`: what the headers must say, from {project}, {participant},
    {session} and "*" ("" compares nothing), both sides taken as XNAT makes labels of them.
    `workers`: processes that read headers; None decides by measuring.
    """

    required: bool = False
    on_bad_file: str = attrs.field(default="hold", validator=one_of("hold", "skip"))
    other_study: str = attrs.field(default="hold", validator=one_of("hold", "skip"))
    missing_instances: str = attrs.field(default="warn", validator=one_of(*_POLICIES))
    patient_id: str = attrs.field(default="", validator=valid_template)
    patient_name: str = attrs.field(default="", validator=valid_template)
    patient_mismatch: str = attrs.field(default="reject", validator=one_of(*_POLICIES))
    study_description: str = attrs.field(default="", validator=valid_template)
    study_description_mismatch: str = attrs.field(default="reject", validator=one_of(*_POLICIES))
    workers: int | None = None


@dataclass(slots=True)
class _Values:
    """The distinct values of one header field: how often, and one file that has it."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, value: str, path: str) -> None:
        if value in self.counts:
            self.counts[value] += 1
        else:
            self.counts[value] = 1
            self.examples[value] = path


@dataclass(slots=True)
class _Series:
    number: int | None
    description: str
    instances: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Study:
    uid: str
    date: str
    description: str
    paths: list[str] = field(default_factory=list)
    series: dict[str, _Series] = field(default_factory=dict)
    patient_ids: _Values = field(default_factory=_Values)
    patient_names: _Values = field(default_factory=_Values)
    descriptions: _Values = field(default_factory=_Values)

    def add(self, header: Header) -> None:
        self.paths.append(header.path)
        self.patient_ids.add(header.patient_id, header.path)
        self.patient_names.add(header.patient_name, header.path)
        self.descriptions.add(header.study_description, header.path)

    def count(self, header: Header) -> None:
        series = self.series.get(header.series_instance_uid)
        if series is None:
            series = self.series[header.series_instance_uid] = _Series(header.series_number, header.series_description)
        if header.instance_number is not None:
            series.instances.add(header.instance_number)


@dataclass(slots=True)
class _Session:
    """What is known of a session once every header was read."""

    objects: int = 0
    bad: int = 0
    studies: dict[str, _Study] = field(default_factory=dict)
    left_out: list[Header] = field(default_factory=list)
    first_path: dict[str, str] = field(default_factory=dict)  # by SOP instance UID
    repeats: dict[str, list[str]] = field(default_factory=dict)

    def add(self, header: Header) -> None:
        study = self.studies.get(header.study_instance_uid)
        if study is None:
            study = _Study(header.study_instance_uid, header.study_date, header.study_description)
            self.studies[study.uid] = study
        study.add(header)
        study.count(header)
        first = self.first_path.setdefault(header.sop_instance_uid, header.path)
        if first is not header.path:
            self.repeats.setdefault(header.sop_instance_uid, [first]).append(header.path)

    def count_left_out(self) -> None:
        """A file that is left out is no gap in its series: it has a finding of its own."""
        for header in self.left_out:
            if header.study_instance_uid in self.studies:
                self.studies[header.study_instance_uid].count(header)


class DicomCheck:
    """Reads every DICOM header of a parcel once and judges file by file, then the session as a whole.

    Findings: `dicom-unreadable`, `dicom-truncated`, `dicom-uid-missing`, `not-dicom-named-dcm`, `no-dicom`,
    `two-studies-in-session`, `dicom-other-study`, `two-patients-in-session`, `duplicate-sop-instance`,
    `missing-instances`, `patient-mismatch`, `study-description-mismatch`.
    """

    def __init__(self, config: DicomConfig) -> None:
        self.config = config

    @classmethod
    def from_settings(cls, settings: Settings, *, where: str = "checks.dicom") -> Self:
        """Raises ConfigError, also when pydicom is not installed."""
        require_pydicom(where)
        return cls(structure(settings, DicomConfig, where=where))

    def check(self, parcel: Parcel) -> Iterable[Finding]:
        """Raises Corrupted when a file is gone, AccessDenied or Unreachable when the disk refuses."""
        return list(limited(self._judge(parcel)))

    def _judge(self, parcel: Parcel) -> Iterator[Finding]:
        session = _Session()
        for found in scan(parcel.root, (entry.path for entry in parcel.manifest), self.config.workers):
            problem = _problem_of(found)
            if problem:
                session.bad += 1
                yield self._bad_file(*problem, path=found.path)
            if isinstance(found, Header):
                self._take(session, found, bad=problem is not None)
        session.count_left_out()
        yield from self._amount(session)
        ordered = sorted(session.studies.values(), key=lambda study: -len(study.paths))
        kept = ordered[:1] if self._leaves_others_out(ordered) else ordered
        yield from _studies(kept, ordered)
        yield from _duplicates(session, parcel)
        for study in kept:
            yield from self._gaps(study)
            yield from self._labels(study, parcel.delivery.labels)

    def _take(self, session: _Session, header: Header, *, bad: bool) -> None:
        if bad and self.config.on_bad_file == "skip":
            session.left_out.append(header)
            return
        session.objects += not bad
        if header.sop_instance_uid and header.study_instance_uid:
            session.add(header)

    def _leaves_others_out(self, ordered: list[_Study]) -> bool:
        if self.config.other_study != "skip" or len(ordered) < 2:
            return False
        return len(ordered[0].paths) >= _DOMINANT * sum(len(study.paths) for study in ordered)

    def _bad_file(self, code: str, message: str, *, path: str) -> Finding:
        if self.config.on_bad_file == "skip":
            return warning(code, message, path=path, hint="left out of the import; see the receipt")
        hint = 'export this file again, or let the route leave such files out (on_bad_file = "skip")'
        return error(code, message, path=path, hint=hint)

    def _amount(self, session: _Session) -> Iterator[Finding]:
        if session.objects:
            return
        if session.bad:
            yield error("no-dicom", f"none of the {session.bad:,} DICOM files can be imported")
        elif self.config.required:
            yield error("no-dicom", "there is no DICOM file in this delivery, and its route requires some")

    def _gaps(self, study: _Study) -> Iterator[Finding]:
        policy = Policy(self.config.missing_instances)
        if policy is Policy.IGNORE:
            return
        for uid, series in study.series.items():
            gaps = _gaps(series.instances)
            if gaps:
                count = sum(last - first + 1 for first, last in gaps)
                listed = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in gaps[:_RANGES])
                name = f"series {series.number} {series.description!r} ({uid})"
                yield policy.finding(
                    "missing-instances",
                    f"{name} has {len(series.instances):,} instance numbers and lacks {count:,}: "
                    f"{listed}{', …' if len(gaps) > _RANGES else ''}",
                    hint="compare with the scanner; a late series can be sent as another delivery",
                )

    def _labels(self, study: _Study, labels: Labels) -> Iterator[Finding]:
        config = self.config
        for what, template, values, code, policy in (
            ("PatientID", config.patient_id, study.patient_ids, "patient-mismatch", config.patient_mismatch),
            ("PatientName", config.patient_name, study.patient_names, "patient-mismatch", config.patient_mismatch),
            (
                "StudyDescription",
                config.study_description,
                study.descriptions,
                "study-description-mismatch",
                config.study_description_mismatch,
            ),
        ):
            if not template or policy == Policy.IGNORE:
                continue
            for value, count in values.counts.items():
                if not fits(template, labels, value):
                    # Findings travel in mails and receipts: a person's name does not belong there.
                    shown = "different" if what == "PatientName" else repr(value)
                    yield Policy(policy).finding(
                        code,
                        f"{what} is {shown} in {count:,} files; {labels} should have {filled(template, labels)!r}",
                        path=values.examples[value],
                        hint="if the label is wrong: lading fix; if the header is wrong: correct it at the scanner",
                    )
        if len(study.patient_ids.counts) > 1:
            named = ", ".join(f"{v!r} ({n:,})" for v, n in list(study.patient_ids.counts.items())[:5])
            yield warning("two-patients-in-session", f"one study, but several PatientIDs: {named}")


def _problem_of(found: Header | Problem | Companion) -> tuple[str, str] | None:
    """Code and message when the file is bad."""
    if isinstance(found, Problem):
        return "dicom-unreadable", f"is DICOM by its beginning and cannot be read: {found.reason}"
    if isinstance(found, Companion):
        if found.path.lower().endswith(_DICOM_SUFFIXES):
            return "not-dicom-named-dcm", "is named like DICOM and is none"
        return None
    if found.shortfall:
        return "dicom-truncated", f"is cut short: {found.shortfall}"
    missing = [
        name
        for name, value in (
            ("SOPInstanceUID", found.sop_instance_uid),
            ("SOPClassUID", found.sop_class_uid),
            ("StudyInstanceUID", found.study_instance_uid),
            ("SeriesInstanceUID", found.series_instance_uid),
        )
        if not value
    ]
    return ("dicom-uid-missing", f"has no {', '.join(missing)}") if missing else None


def _studies(kept: list[_Study], ordered: list[_Study]) -> Iterator[Finding]:
    """One study to a session: the others are left out, file by file, or all are refused."""
    for study in ordered[len(kept) :]:
        message = f"belongs to another study ({study.uid}) than the session ({kept[0].uid})"
        for path in study.paths:
            yield warning("dicom-other-study", message, path=path, hint="left out of the import; see the receipt")
    if len(kept) > 1:
        yield error(
            "two-studies-in-session",
            f"{len(kept)} studies in one session: " + "; ".join(_describe(study) for study in kept[:5]),
            hint="a session holds one study: send each study as a session of its own",
        )


def _describe(study: _Study) -> str:
    date = f"{study.date[:4]}-{study.date[4:6]}-{study.date[6:]}" if len(study.date) == 8 else study.date or "no date"
    examples = ", ".join(study.paths[:_EXAMPLES])
    described = study.description or "no description"
    return f"{study.uid} ({date}, {described}, {len(study.paths):,} files such as {examples})"


def _duplicates(session: _Session, parcel: Parcel) -> Iterator[Finding]:
    """Twice the same bytes is harmless; the same name with other bytes would lose one of them in the repository."""
    if not session.repeats:
        return
    wanted = {path for paths in session.repeats.values() for path in paths}
    digests = {entry.path: entry.sha256 for entry in parcel.manifest if entry.path in wanted}
    for uid, paths in session.repeats.items():
        named = ", ".join(paths[:_EXAMPLES]) + (f" and {len(paths) - _EXAMPLES:,} more" if paths[_EXAMPLES:] else "")
        if len({digests[path] for path in paths}) == 1:
            yield warning(
                "duplicate-sop-instance",
                f"{named} are the same object {uid}, byte for byte; the repository keeps one",
                path=paths[1],
            )
        else:
            yield error(
                "duplicate-sop-instance",
                f"{named} all say they are object {uid} but differ; the repository would keep only one",
                path=paths[1],
                hint="ask the scanner for a fresh export of this series",
            )


def _gaps(numbers: set[int]) -> list[tuple[int, int]]:
    """The missing ranges, from 1 (or the least) to the greatest. A lone object has no gaps."""
    if len(numbers) < 2:
        return []
    ordered = sorted(numbers)
    # A first number beyond what the series holds is a numbering scheme, not a loss.
    start = 0 if 1 < ordered[0] <= len(ordered) else ordered[0] - 1
    return [(a + 1, b - 1) for a, b in pairwise([start, *ordered]) if b > a + 1]
