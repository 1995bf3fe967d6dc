"""What is in a DICOM object, for the proof that a repository holds it."""

import warnings
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom")
from pydicom import config  # noqa: E402
from pydicom.data import get_testdata_file  # noqa: E402

from transport.dicom_headers import read_header  # noqa: E402
from xnat_importer.dicom import substance  # noqa: E402

CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))


class Watched(config.Settings):
    """Knows whether somebody turned one of the settings that all threads share."""

    turned: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        type(self).turned += (name,)


@pytest.mark.parametrize("read", [substance, read_header])
def test_nobody_turns_the_settings_of_pydicom_that_other_threads_read_by(
    read: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "settings", Watched())
    monkeypatch.setattr(Watched, "turned", ())

    assert callable(read)
    assert read(CT) is not None

    assert Watched.turned == ()


def test_a_value_that_breaks_the_rules_counts_like_any_other(tmp_path: Path) -> None:
    image = pydicom.dcmread(CT)
    told = []
    for time in ("/..", "/...", "/.."):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.StudyTime = time
            image.save_as(tmp_path / "odd.dcm")
            told.append(substance(tmp_path / "odd.dcm"))

    assert None not in told
    assert told[0] == told[2] != told[1]


def test_a_value_that_cannot_be_said_at_all_counts_too(tmp_path: Path) -> None:
    content = CT.read_bytes()
    slope = content.index(b"\x28\x00\x53\x10DS")  # RescaleSlope, a number in letters
    told = []
    for value in (b"x", b"y"):
        length = int.from_bytes(content[slope + 6 : slope + 8], "little")
        odd = content[: slope + 8] + value.ljust(length)[:length] + content[slope + 8 + length :]
        (tmp_path / "odd.dcm").write_bytes(odd)
        told.append(substance(tmp_path / "odd.dcm"))

    assert None not in told
    assert told[0] != told[1]
