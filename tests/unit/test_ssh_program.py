"""The ssh at the other end of our pipes: what happens when it ends before we look."""

import sys
import threading
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the program ssh is not used on Windows")


def test_closing_a_line_whose_ssh_has_ended_already_is_quiet(tmp_path):
    from transport.ssh_program import ProgramLine

    go_on = tmp_path / "go-on"
    program = tmp_path / "ssh"
    # It ends at once; who inherited its stderr holds that open for as long as we like.
    program.write_text(f"#!/bin/sh\n(until [ -e '{go_on}' ]; do sleep 0.05; done) >/dev/null </dev/null &\nexit 0\n")
    program.chmod(0o755)
    escaped = []
    threading.excepthook, before = escaped.append, threading.excepthook
    try:
        line = ProgramLine([str(program)], "host")
        listener = next(thread for thread in threading.enumerate() if thread.name == "lading-ssh-host")
        while _is_running(line._child.pid):
            time.sleep(0.02)

        line.close()
        go_on.touch()
        listener.join(60)
    finally:
        threading.excepthook = before

    assert not listener.is_alive()
    assert not escaped
    assert line.is_closed


def _is_running(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
