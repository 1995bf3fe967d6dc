"""Robocopy through its seam: command lines, exit codes and logs in several languages, long paths, locked files (scenario S23).

The logs have the form that Microsoft documents and people quote; none was recorded here, as robocopy runs on Windows only.
"""

import fcntl
import subprocess
import threading
from pathlib import Path

import pytest

from lading.errors import (
    AccessDenied,
    ConfigError,
    LadingError,
    OutOfSpace,
    Rejected,
    SourceChanged,
    UnexpectedFault,
    Unreachable,
)
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress
from lading.testing import robocopy_double, trees
from lading.testing.carrying import Errand
from transport.robocopy import RobocopyConfig, RobocopyTransport
from transport.robocopy_run import Call, Switches, command, extended, failures, in_calls, judge, plain

ENGLISH = (
    "2026/05/04 18:15:00 ERROR {0} (0x{0:08X}) Copying File C:\\data\\ses-01\\image 1.dcm\n"
    "The process cannot access the file because it is being used by another process.\n"
    "Waiting 10 seconds... Retrying...\n"
    "2026/05/04 18:15:10 ERROR {0} (0x{0:08X}) Copying File C:\\data\\ses-01\\image 1.dcm\n"
    "The process cannot access the file because it is being used by another process.\n\n"
    "ERROR: RETRY LIMIT EXCEEDED.\n"
)
GERMAN = (
    "2026/05/04 18:15:00 FEHLER {0} (0x{0:08X}) Datei wird kopiert C:\\data\\ses-01\\image 1.dcm\n"
    "Der Prozess kann nicht auf die Datei zugreifen, da sie von einem anderen Prozess verwendet wird.\n\n"
    "FEHLER: WIEDERHOLUNGSLIMIT ÜBERSCHRITTEN.\n"
)
JAPANESE = (
    "2026/05/04 18:15:00 エラー {0} (0x{0:08X}) ファイルをコピーしています C:\\data\\ses-01\\image 1.dcm\n"
    "別のプロセスで使用されているため、プロセスはファイルにアクセスできません。\n\n"
    "エラー: 再試行が制限を超えました。\n"
)
LOGS = {"en": ENGLISH, "de": GERMAN, "ja": JAPANESE}


@pytest.fixture
def call(tmp_path):
    return Call(Path("C:\\data\\ses-01"), Path("\\\\server\\share\\inbox"), ("image 1.dcm",), tmp_path / "log")


def write(call, text, encoding="utf-16"):
    call.log.write_bytes(text.encode(encoding))


@pytest.mark.parametrize("code", range(8))
def test_every_code_below_8_is_a_success(call, code):
    judge(code, call)


@pytest.mark.parametrize("language", LOGS)
@pytest.mark.parametrize("code", range(8, 32))
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (32, SourceChanged),
        (5, AccessDenied),
        (112, OutOfSpace),
        (53, Unreachable),
        (1326, AccessDenied),
        (2, SourceChanged),
    ],
)
def test_every_code_from_8_is_the_error_that_its_number_says_in_any_language(call, language, code, number, kind):
    write(call, LOGS[language].format(number))

    with pytest.raises(kind, match=r"image 1\.dcm"):
        judge(code, call)


@pytest.mark.parametrize("code", range(8, 32))
def test_a_failure_without_a_log_is_told_with_its_code(call, code):
    with pytest.raises(UnexpectedFault, match=f"exit code {code}"):
        judge(code, call)


@pytest.mark.parametrize("code", [32, 0xC000013A, 0xC0000005, -9, -15, 259])
def test_a_code_that_is_no_sum_of_bits_means_that_it_was_ended(call, code):
    with pytest.raises(Unreachable, match="ended"):
        judge(code, call)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8", "utf-8-sig"])
def test_a_log_is_read_in_whatever_encoding_it_came(call, encoding):
    found = failures(JAPANESE.format(32).encode(encoding)).by_path

    assert list(found) == ["C:\\data\\ses-01\\image 1.dcm"]
    assert "別のプロセス" in found["C:\\data\\ses-01\\image 1.dcm"].words


def test_garbage_in_a_log_is_no_failure():
    assert not failures(b"\xff\xfe\x00\xd8garbage 5 (0x5) x\n\x00" + bytes(range(256))).by_path
    assert not failures(b"2026/05/04 18:15:00 ERROR 5 (0x00000006) numbers that differ C:\\x\n").by_path


def test_a_full_disk_explains_what_else_failed(call):
    write(call, ENGLISH.format(5) + ENGLISH.format(112).replace("image 1", "image 2"))

    with pytest.raises(OutOfSpace):
        judge(8, call)


def test_a_share_that_is_gone_is_no_change_of_the_source(call):
    write(
        call, "2026/05/04 18:15:00 FEHLER 3 (0x00000003) Zielverzeichnis wird erstellt \\\\server\\share\\inbox\\\nx\n"
    )

    with pytest.raises(Unreachable):
        judge(16, call)


def test_locked_files_are_all_named(call):
    write(call, "".join(GERMAN.format(32).replace("image 1", f"image {n}") for n in range(25)))

    with pytest.raises(SourceChanged, match=r"image 0\.dcm, .*image 19\.dcm and 5 more") as caught:
        judge(9, call)
    assert caught.value.retried


def test_the_command_line_has_the_switches_and_plain_paths():
    long = "\\\\?\\UNC\\server\\share\\" + "a" * 200 + "\\" + "b" * 200
    argv = command(
        "robocopy.exe", Call(Path("\\\\?\\C:\\data"), Path(long), ("-x", "ü 1.dcm"), Path("C:\\l")), Switches(3, 7)
    )

    assert argv[:5] == [
        "robocopy.exe",
        "C:\\data",
        "\\\\server\\share\\" + "a" * 200 + "\\" + "b" * 200,
        "-x",
        "ü 1.dcm",
    ]
    assert {"/Z", "/J", "/R:3", "/W:7", "/COPY:DT", "/XJ", "/UNILOG:C:\\l"} <= set(argv)
    assert not [word for word in argv if "?" in word]
    assert not {"/Z", "/J"} & set(
        command("r", Call(Path("a"), Path("b"), (), Path("c")), Switches(restartable=False, unbuffered=False))
    )


def test_a_folder_of_many_files_is_many_calls_that_windows_accepts():
    names = [f"a rather long name of an image {n:06}.dcm" for n in range(2000)]

    calls = list(in_calls(names))

    assert [name for call in calls for name in call] == names
    assert len(calls) > 1
    paths = Path("C:\\" + "x" * 4500)
    assert all(
        len(subprocess.list2cmdline(command("robocopy.exe", Call(paths, paths, call, paths), Switches()))) < 32_767
        for call in calls
    )


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("C:\\data\\x", "\\\\?\\C:\\data\\x"),
        ("C:/data/x", "\\\\?\\C:\\data\\x"),
        ("\\\\server\\share\\x", "\\\\?\\UNC\\server\\share\\x"),
        ("//server/share/x", "\\\\?\\UNC\\server\\share\\x"),
    ],
)
def test_long_paths_there_and_back(short, long):
    assert extended(short) == long
    assert extended(long) == long
    assert plain(long) == short.replace("/", "\\")
    assert plain(short) == short


class Desk:
    """A source, an inbox, and a transport with a stand-in of the given language."""

    def __init__(self, folder, source, language="de", **settings):
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self.source = source
        (folder / "state").mkdir()
        program = str(robocopy_double.install(folder, language))
        made = {"path": str(self.inbox.root), "program": program, "retries": 1, "wait": 0, **settings}
        factory = "transport.robocopy:RobocopyTransport.from_settings"
        self.errand = Errand(
            factory, made, str(source), str(folder / "papers"), str(folder / "state"), "test-delivery-1"
        ).sealed()

    @property
    def data(self):
        return self.inbox.root / self.errand.slot.data


@pytest.mark.parametrize("language", LOGS)
def test_a_file_that_stays_locked_is_named_and_the_others_are_kept(tmp_path, language):
    desk = Desk(tmp_path, trees.write(tmp_path / "s", {"a.dcm": b"1", "b.dcm": b"22", "c.dcm": b"333"}), language)

    with (desk.source / "b.dcm").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SourceChanged, match=r"another program still holds \S*b\.dcm$"):
            desk.errand.carry()
        assert not desk.data.exists() or not list(desk.data.iterdir())
    desk.errand.carry()

    assert trees.look(desk.data) == trees.look(desk.source)


def test_a_file_that_is_locked_for_a_while_is_waited_for(tmp_path):
    desk = Desk(tmp_path, trees.write(tmp_path / "s", {"a.dcm": b"1", "b.dcm": b"22"}), retries=600, wait=1)
    held = (desk.source / "b.dcm").open("rb")
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.5, held.close).start()

    desk.errand.carry()

    assert trees.look(desk.data) == trees.look(desk.source)


def test_a_path_of_more_than_300_characters_arrives(tmp_path):
    deep = "/".join(["a folder with a rather long name, of which there are many"] * 6) + "/ü.dcm"
    desk = Desk(tmp_path, trees.write(tmp_path / "s", {deep: b"x" * 1000}))

    desk.errand.carry()

    assert trees.look(desk.data) == trees.look(desk.source)
    assert len(deep) > 300


@pytest.mark.parametrize(
    ("name", "proposal"), [("name.", "name"), ("CON", "CON_"), ("aux.txt", "aux_.txt"), ("a:b", "a_b")]
)
def test_names_that_windows_refuses_are_refused_before_anything_is_sent(tmp_path, name, proposal):
    desk = Desk(tmp_path, trees.write(tmp_path / "s", {name: b"x"}))

    with pytest.raises(Rejected) as caught:
        desk.errand.carry()

    assert proposal in caught.value.findings[0].hint
    assert not list((desk.inbox.root / ".lading" / "incoming").iterdir())


def test_two_forms_of_one_umlaut_are_refused(tmp_path):
    source = trees.write(tmp_path / "s", {"\u00fc.dcm": b"composed", "u\u0308.dcm": b"decomposed"})

    with pytest.raises(LadingError, match="differ only"):
        Desk(tmp_path, source)


class Damaging:
    """A robocopy that copies well, and then damages one file so many times."""

    def __init__(self, victim, times):
        self.victim, self.times, self.calls = victim, times, 0

    def __call__(self, argv):
        self.calls += 1
        code = robocopy_double_copy(argv)
        if self.victim in argv and self.times:
            self.times -= 1
            (Path(argv[2]) / self.victim).write_bytes(b"damaged")
        return code


def robocopy_double_copy(argv):
    order = robocopy_double.ordered(argv[1:])
    for name in order.names:
        assert robocopy_double.copy(order.source / name, order.target / name) == 0
    return robocopy_double.COPIED


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_arrives_damaged_is_copied_once_more_and_never_believed(tmp_path, times):
    desk = Desk(tmp_path, trees.write(tmp_path / "s", {"a.dcm": b"1" * 100, "b/c.dcm": b"2" * 100}))
    transport = RobocopyTransport(
        RobocopyConfig(path=desk.inbox.root, program="r"),
        tmp_path / "state",
        robocopy=(damaging := Damaging("c.dcm", times)),
    )
    cargo, slot = desk.errand.cargo(), desk.errand.slot

    if times == 1:
        transport.carry(cargo, slot, desk.errand.journal, NoProgress())
        assert trees.look(desk.data) == trees.look(desk.source)
        assert damaging.calls == 3
    else:
        with pytest.raises(LadingError, match="damaged 2 times"):
            transport.carry(cargo, slot, desk.errand.journal, NoProgress())
        assert not list(desk.data.iterdir())
    assert list(desk.inbox.arrivals()) == (["test-delivery-1"] if times == 1 else [])


def test_without_robocopy_the_settings_are_at_fault(tmp_path):
    desk = Desk(tmp_path, trees.write(tmp_path / "s", {"a.dcm": b"1"}), program="no-such-robocopy.exe")

    with pytest.raises(ConfigError, match="robocopy is a program of Windows"):
        desk.errand.transport().probe()
    with pytest.raises(ConfigError):
        desk.errand.carry()
