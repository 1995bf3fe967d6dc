"""How an rsync is run, ended and understood."""

import shutil
import signal
import time

import pytest

from lading.errors import AccessDenied, ConfigError, LadingError, OutOfSpace, SourceChanged, Unreachable
from lading.inbox import Inbox
from lading.manifest import make
from lading.seal import read_seal
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.site import command_lines
from transport.rsync import RsyncTransport
from transport.rsync_run import EXIT_CODES, MESSAGES, Ended, Rsync, bytes_done, unescaped
from transport.rsync_surplus import surplus

needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")


def test_every_documented_exit_code_has_a_meaning():
    documented = {1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 25, 30, 35}  # rsync(1), EXIT VALUES

    assert documented <= EXIT_CODES.keys()
    for code in [*EXIT_CODES, 99]:
        assert isinstance(Ended(code, "").error("carrying"), LadingError)


@pytest.mark.parametrize(
    ("code", "stderr", "kind"),
    [
        (255, "ssh: connect to host x port 22: Connection refused", Unreachable),
        (255, "ssh: Could not resolve hostname x: Name or service not known", Unreachable),
        (255, "me@x: Permission denied (publickey).", AccessDenied),
        (255, "Host key verification failed.", AccessDenied),
        (11, 'rsync: [receiver] write failed on "/in/f": No space left on device (28)', OutOfSpace),
        (12, 'rsync: [receiver] write failed on "/in/f": No space left on device (28)', OutOfSpace),
        (11, 'rsync: [Receiver] mkdir "/in/x" failed: Permission denied (13)', AccessDenied),
        (23, 'rsync: [generator] recv_generator: mkdir "/in/x" failed: Read-only file system (30)', AccessDenied),
        (23, 'rsync: [sender] send_files failed to open "/s/f": Permission denied (13)', AccessDenied),
        (24, 'file has vanished: "/s/f"', SourceChanged),
        (12, "rsync: connection unexpectedly closed (0 bytes received so far) [sender]", Unreachable),
        (12, "/usr/bin/rrsync error: option -s has been disabled on this server.", AccessDenied),
        (30, "[sender] io timeout after 5 seconds -- exiting", Unreachable),
        (1, "rsync: on remote machine: --mkpath: unknown option", ConfigError),
        (127, "sh: 1: rsync: not found", AccessDenied),
    ],
)
def test_a_message_tells_who_must_act(code, stderr, kind):
    error = Ended(code, stderr).error("cannot carry x")

    assert type(error) is kind
    assert "cannot carry x" in error.message
    assert str(code) in error.message


def test_no_message_pattern_is_shadowed_by_a_broken_one():
    for pattern, kind, words in MESSAGES:
        assert issubclass(kind, LadingError)
        assert pattern
        assert words


def test_names_and_progress_are_read_as_rsync_prints_them():
    assert unescaped(rb"new\#012line \#374 \#134#012") == "new\nline \udcfc \\#012"
    assert bytes_done(b"  210567008 100%   56.72MB/s    0:00:03 (xfr#201, to-chk=0/216)") == 210567008
    assert bytes_done(b">f+++++++++") is None


@pytest.mark.parametrize(
    "target",
    ["relative", "host:relative", "-oProxyCommand=x:/in", "a b:/in", "rsync://host/in", "h;x:/in", ""],
)
def test_a_target_that_is_no_path_or_host_is_refused(target, tmp_path):
    with pytest.raises(ConfigError, match="target"):
        RsyncTransport.from_settings({"target": target}, state=tmp_path)


def test_an_unknown_key_is_named(tmp_path):
    with pytest.raises(ConfigError, match="identity"):
        RsyncTransport.from_settings({"target": "/in", "identitty": "x"}, state=tmp_path)


def test_a_missing_program_says_so(tmp_path):
    with pytest.raises(ConfigError, match="not installed"):
        Rsync("no-such-rsync").run([], cwd=tmp_path)


@needs_rsync
def test_half_a_list_does_not_pass_for_a_whole_one(tmp_path):
    def names():
        yield "a"
        raise AccessDenied("the list cannot be read on")

    trees.write(tmp_path / "source", {"a": b"1", "b": b"2"})

    with pytest.raises(AccessDenied, match="cannot be read on"):
        Rsync().run(["--files-from=-", "--from0", "./", f"{tmp_path}/target/"], cwd=tmp_path / "source", names=names())


@needs_rsync
def test_an_interrupted_carry_leaves_no_rsync_behind(tmp_path):
    inbox = Inbox.create(tmp_path / "inbox")
    state = tmp_path / "state"
    state.mkdir()
    source = trees.write(tmp_path / "source", {"large": trees.noise(1, 30_000_000)})
    wrapper = tmp_path / "slow-rsync"
    wrapper.write_text('#!/bin/sh\nexec rsync --bwlimit=2000 "$@"\n')
    wrapper.chmod(0o755)
    errand = Errand(
        "transport.rsync:RsyncTransport.from_settings",
        {"target": str(inbox.root), "program": str(wrapper)},
        str(source),
        str(tmp_path / "papers"),
        str(state),
        "interrupted-1",
    ).sealed()

    process = errand.start()
    _wait_for(lambda: [line for line in _rsyncs(errand) if "/data/" in line])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)

    _wait_for(lambda: not _rsyncs(errand))


@needs_rsync
def test_a_changed_rate_starts_rsync_anew_and_loses_nothing(tmp_path):
    inbox = Inbox.create(tmp_path / "inbox")
    source = trees.write(tmp_path / "source", {f"{n}": trees.noise(n, 1_000_000) for n in range(8)})
    errand = Errand(
        "transport.rsync:RsyncTransport.from_settings",
        {"target": str(inbox.root)},
        str(source),
        str(tmp_path / "papers"),
        str(tmp_path),
        "paced-0001",
    ).sealed()
    pace = _Faster()
    transport = errand.transport().paced(pace)  # type: ignore[attr-defined]

    transport.carry(errand.cargo(), errand.slot, errand.journal, _Nobody())

    assert pace.asked_again
    assert trees.look(inbox.root / errand.slot.data) == trees.look(source)


_LISTING_IN_A_CHANGING_SLOT = """\
#!/bin/sh
case "$*" in
*--list-only*) rsync "$@" && echo 'file has vanished: "/in/.a.AbCdEf"' >&2 && exit 24 ;;
*) exec rsync "$@" ;;
esac
"""


@needs_rsync
def test_a_slot_that_changes_while_we_tidy_it_up_is_no_changed_source(tmp_path):
    """The rsync of an attempt that was killed may still be at work there; its files vanish when they get their names."""
    inbox = Inbox.create(tmp_path / "inbox")
    source = trees.write(tmp_path / "source", {"a": b"1", "b/c": b"2"})
    program = tmp_path / "rsync-there"
    program.write_text(_LISTING_IN_A_CHANGING_SLOT)
    program.chmod(0o755)
    errand = Errand(
        "transport.rsync:RsyncTransport.from_settings",
        {"target": str(inbox.root), "program": str(program)},
        str(source),
        str(tmp_path / "papers"),
        str(tmp_path),
        "changing-01",
    ).sealed()
    errand.journal.note("rsync-begun", read_seal(errand.cargo().papers).summary.list_digest)
    slot = inbox.root / errand.slot.path
    trees.write(slot / "data", {".a.AbCdEf": b"part", "b/.rsync-partial/c": b"part", "gone/d": b"not listed any more"})

    errand.carry()

    assert trees.look(slot / "data") == trees.look(source)
    assert inbox.accept(errand.slot.delivery)


@needs_rsync
def test_a_folder_is_needed_although_its_file_was_not_seen(tmp_path):
    source = trees.write(tmp_path / "source", {"a/b/c": b"1", "d": b"2"})
    (tmp_path / "papers").mkdir()
    manifest = make(source, tmp_path / "papers")

    listed = [(True, "a"), (True, "a/b"), (True, "x"), (False, "d"), (False, "x/y"), (False, "z")]

    assert sorted(surplus(listed, manifest)) == ["x", "z"]


class _Faster:
    """A pace that is slow for a second and a half, then has no limit."""

    def __init__(self):
        self.start = time.monotonic()
        self.asked_again = False

    def rate(self):
        if time.monotonic() - self.start < 1.5:
            return 1_500_000.0
        self.asked_again = True
        return None

    def spend(self, count):
        pass


class _Nobody:
    def advance(self, *, files=0, bytes=0):  # noqa: A002 - the role's word
        pass


def _rsyncs(errand: Errand) -> list[str]:
    return [line for line in command_lines() if str(errand.slot.path) in line and "rsync" in line]


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_that_reads_nothing_any_more_is_ended(tmp_path):
    sleeper = Rsync("sleep")

    began = time.monotonic()
    ended = sleeper.run(["60"], cwd=tmp_path, patience=2.0)

    assert time.monotonic() - began < 20
    assert ended.silent_s >= 2
    error = ended.error("cannot carry x")
    assert isinstance(error, Unreachable)
    assert "said nothing for" in error.message


def test_a_process_that_hears_something_now_and_then_is_left_alone(tmp_path):
    (tmp_path / "talk").write_text("for i in 1 2 3 4; do sleep 1.5; echo $i; done")

    hear = "mkfifo line; sh talk > line & while read x; do :; done < line"
    ended = Rsync("sh").run(["-c", hear], cwd=tmp_path, patience=3.5)

    assert (ended.code, ended.silent_s) == (0, 0.0)
