"""Labels are judged, and a mistyped one gets the right suggestion."""

from pathlib import Path

import pytest

from lading.checks.layout import LayoutCheck
from lading.checks.suggestions import suggest
from lading.delivery import Delivery, Labels, Parcel, new_delivery_id
from lading.errors import ConfigError
from lading.manifest import make

SUB = "sub-[0-9]{3}"


def codes_and_hints(check: LayoutCheck, project: str = "PROJ1", participant: str = "sub-001", session: str = "ses-01"):
    return [(f.code, f.hint) for f in check.judge(Labels(project, participant, session).as_dict())]


def test_labels_that_xnat_takes_are_fine_without_any_settings():
    assert codes_and_hints(LayoutCheck.from_settings({}), "P_1", "A-2", "x") == []


@pytest.mark.parametrize("label", ["sub 001", "sub.001", "süb-001", "a/b", "", "x" * 65])
def test_labels_that_xnat_would_change_or_refuse_are_invalid(label):
    ((code, _),) = codes_and_hints(LayoutCheck.from_settings({}), participant=label)

    assert code == "label-invalid"


def test_a_finding_says_what_to_type(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("a")
    (tmp_path / "papers").mkdir()
    delivery = Delivery(new_delivery_id(), "mri", Labels("PROJ1", "sub-O01", "ses-01"))
    parcel = Parcel(delivery, tmp_path / "data", make(tmp_path / "data", tmp_path / "papers"), published=False)

    (finding,) = LayoutCheck.from_settings({"participant": SUB}).check(parcel)

    assert finding.code == "label-unexpected"
    assert "'sub-O01' does not match" in finding.message
    assert "did you mean 'sub-001'?" in finding.message
    assert finding.hint == f"lading fix {delivery.id} --participant sub-001"


@pytest.mark.parametrize(
    ("typed", "pattern", "meant"),
    [
        ("sub-O01", SUB, "sub-001"),
        ("sub-0l2", SUB, "sub-012"),
        ("sub-1", SUB, "sub-001"),
        ("sub-0012", SUB, "sub-012"),
        ("sub_001", SUB, "sub-001"),
        ("SUB-001", SUB, "sub-001"),
        ("sub001", SUB, "sub-001"),
        ("sub 001", SUB, "sub-001"),
        ("SUB_O1", SUB, "sub-001"),
        ("sbu-017", SUB, "sub-017"),
        ("017", SUB, "sub-017"),
        ("SUB_27B046", "sub-[0-9]{2}B[0-9]{3}", "sub-27B046"),
        ("PROJ_1", "PROJ[0-9]+", "PROJ1"),
        ("Müller", "[a-z]+", "muller"),
    ],
)
def test_usual_slips_are_seen_through(typed, pattern, meant):
    assert suggest(typed, pattern=pattern) == meant


@pytest.mark.parametrize("typed", ["phantom", "", "pilot-2026-11-20-second-try", "x" * 300])
def test_nothing_is_suggested_for_what_is_not_near(typed):
    assert suggest(typed, pattern=SUB) is None


def test_a_known_participant_spelt_alike_is_suggested():
    check = LayoutCheck.from_settings({"participants": ["alice", "bob", "carol"]})

    assert codes_and_hints(check, participant="alcie") == [("participant-unknown", "lading fix ID --participant alice")]
    assert codes_and_hints(check, participant="Bob") == [("participant-unknown", "lading fix ID --participant bob")]
    assert codes_and_hints(check, participant="zed") == [
        ("participant-unknown", "lading fix ID --participant PARTICIPANT")
    ]


def test_a_project_may_have_its_own_rules():
    check = LayoutCheck.from_settings(
        {"participant": SUB, "per_project": {"OLD": {"participant": "[A-Z]{2}", "sessions": ["v1", "v2"]}}}
    )

    assert codes_and_hints(check, "OLD", "AB", "v1") == []
    assert [code for code, _ in codes_and_hints(check, "OLD", "sub-001", "v3")] == [
        "label-unexpected",
        "session-unknown",
    ]
    assert [code for code, _ in codes_and_hints(check, "NEW", "AB")] == ["label-unexpected"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particpant": SUB}, "did you mean 'participant'"),
        ({"participant": "sub-[0-9"}, "participant = 'sub-\\[0-9' is not a regular expression"),
        ({"per_project": {"A": {"sesion": "x"}}}, "did you mean 'session'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        LayoutCheck.from_settings(settings, where="routes.mri.checks.layout")

    assert "routes.mri.checks.layout" in caught.value.message
