"""What the doctor sees, and that its advice works."""

import subprocess

from lading.testing.facility import Facility, mail_tables
from lading.testing.mailserver import MailServer


def levels(site: Facility) -> dict[str, str]:
    return {d["area"]: d["level"] for d in site.ask("doctor")["diagnoses"]}


def test_the_doctor_is_content_with_a_sound_site_and_names_what_is_wrong_with_a_sick_one(
    make_site, mail: MailServer
) -> None:
    site = make_site(checks='[routes.mri.checks.layout.per_project.DEMO]\nsession = ".*"', more=mail_tables(mail.port))
    site.start_server()
    site.start_agent()
    site.until(
        lambda: levels(site).get("server") == "ok" == levels(site).get("agent"), seconds=30, why="both run", every=0.5
    )

    sound = levels(site)
    assert mail.mails == []
    assert site.run("doctor", "--test-mail", "somebody@example.org").returncode == 0
    assert [told["To"] for told in mail.mails] == ["somebody@example.org"]
    site.kill("xnat")
    mail.stop()
    (site.inbox / ".lading" / "inbox.json").rename(site.root / "away.json")
    sick = site.ask("doctor")

    assert set(sound.values()) == {"ok"}, sound
    assert {"inbox main", "database", "repository xnat", "project DEMO", "route mri", "mail", "server", "agent"} <= set(
        sound
    )
    failed = {d["area"]: d for d in sick["diagnoses"] if d["level"] == "fail"}
    assert {"repository xnat", "inbox main", "route mri", "mail"} <= set(failed)
    assert all(d["next"] for d in failed.values())


def test_init_writes_settings_that_the_doctor_can_read(tmp_path) -> None:
    import sys

    for role in ("server", "agent", "both"):
        target = tmp_path / role / "lading.toml"
        made = subprocess.run(
            [sys.executable, "-m", "lading", "init", "--role", role, "--file", str(target)],
            capture_output=True,
            text=True,
        )
        again = subprocess.run(
            [sys.executable, "-m", "lading", "init", "--role", role, "--file", str(target)],
            capture_output=True,
            text=True,
        )
        examined = subprocess.run(
            [sys.executable, "-m", "lading", "--config", str(target), "doctor"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

        assert made.returncode == 0, made.stderr
        assert again.returncode == 2
        assert "left alone" in again.stderr
        assert str(target) in examined.stdout


def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path) -> None:
    import sys

    (tmp_path / "lading.toml").write_text('[routes.mri]\ntranport = { kind = "local" }\n')

    refused = subprocess.run(
        [sys.executable, "-m", "lading", "--config", str(tmp_path / "lading.toml"), "status"],
        capture_output=True,
        text=True,
    )

    assert refused.returncode == 2
    assert "unknown key 'tranport'" in refused.stderr
    assert "did you mean 'transport'" in refused.stderr
