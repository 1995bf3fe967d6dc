"""rsync between two other hosts, and what goes on between them: whose key goes where, other files than planned."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lading.errors import AccessDenied, SourceChanged
from lading.testing import trees
from lading.testing.servers import make_key, missing_for_sshd, sshd
from lading.testing.site import Desk, Site
from lading.testing.two_hosts import FACTORY, Hosts

pytestmark = [
    pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)"),
    pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd()),
]


# What the staging host runs for us while it has our key: it tries the key at another host too, and then where it may go.
NOSY = """\
#!/bin/sh
if [ -n "$SSH_AUTH_SOCK" ] && [ ! -e "{said}" ]; then
    for port in {other} {data}; do
        ssh -n -F none -o BatchMode=yes -o UserKnownHostsFile="{known}" -p $port {user}@127.0.0.1 true 2>>"{words}"
        echo "$port $?" >> "{said}"
    done
fi
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""


def test_the_staging_host_can_use_our_key_for_the_one_hop_and_for_no_other(hosts: Hosts, tmp_path: Path) -> None:
    with sshd(tmp_path / "third") as other:
        with other.authorized_keys.open("a") as keys:
            keys.write(hosts.staging.identity.with_suffix(".pub").read_text())
        known = tmp_path / "known-there"
        known.write_text(hosts.data.known_hosts.read_text() + other.known_hosts.read_text())
        said, words, nosy = tmp_path / "said", tmp_path / "words", tmp_path / "nosy"
        ports = {"other": other.port, "data": hosts.data.port}
        nosy.write_text(NOSY.format(said=said, words=words, known=known, user=other.user, **ports))
        nosy.chmod(0o755)
        key = hosts.staging.authorized_keys.read_text()
        hosts.staging.authorized_keys.write_text(f'command="{nosy}" {key}')
        direct = ["ssh", "-n", "-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}"]
        direct += ["-i", str(hosts.staging.identity), "-p", str(other.port), f"{other.user}@127.0.0.1", "true"]
        assert subprocess.run(direct, check=False).returncode == 0, "the other host would take the key"
        folder = tmp_path / "desk"
        folder.mkdir()
        desk = Desk(folder, Site(FACTORY, lambda inbox: hosts.settings(inbox, tmp_path)))
        errand = desk.errand(desk.plain()).sealed()

        errand.carry()

        assert desk.is_sealed(errand)
        assert said.read_text().split() == [str(other.port), "255", str(hosts.data.port), "0"], words.read_text()


GROWING = """\
#!/bin/sh
if [ -e "{state}" ]; then printf more >> "{grows}"; fi
touch "{state}"
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""


def test_a_run_that_moves_anything_but_the_plan_is_not_sealed(hosts: Hosts, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    folder.mkdir()
    desk = Desk(folder, Site(FACTORY, lambda inbox: hosts.settings(inbox, tmp_path)))
    source = desk.plain()
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(GROWING.format(state=tmp_path / "planned", grows=source / "series-1" / "image-0003.dcm"))
    wrapper.chmod(0o755)
    keys = hosts.data.authorized_keys.read_text()
    hosts.data.authorized_keys.write_text("".join(f'command="{wrapper}" {line}\n' for line in keys.splitlines()))
    errand = desk.errand(source).sealed()

    with pytest.raises(SourceChanged, match="the plan was 12 files"):
        errand.carry()

    assert not desk.is_sealed(errand)
    hosts.data.authorized_keys.write_text(keys)
    anew = desk.errand(source).sealed()
    anew.carry()
    assert trees.look(desk.data(anew)) == trees.look(source)


def test_a_data_host_that_cannot_prove_who_it_is_gets_no_log_in(hosts: Hosts, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    folder.mkdir()
    wrong = tmp_path / "wrong-host"
    words = make_key(tmp_path / "stranger").with_suffix(".pub").read_text().split()[:2]
    wrong.write_text(f"[127.0.0.1]:{hosts.data.port} {' '.join(words)}\n")

    def reach(inbox: Path) -> dict[str, object]:
        settings = hosts.settings(inbox, tmp_path)
        assert isinstance(settings["source"], dict)
        return {**settings, "source": {**settings["source"], "known_hosts": str(wrong)}}

    desk = Desk(folder, Site(FACTORY, reach))
    errand = desk.errand(desk.plain()).sealed()

    with pytest.raises(AccessDenied, match=r"[Hh]ost key"):
        errand.carry()

    assert not desk.is_sealed(errand)
    assert "Accepted" not in hosts.data.log.read_text()
