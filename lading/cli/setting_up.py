"""Setting up: starter settings, and the doctor."""

import sys
from pathlib import Path

import click
from rich.text import Text

from lading.cli import output
from lading.cli.context import App, json_option, pass_app
from lading.cli.templates import starter
from lading.config import CONFIG_NAME, load
from lading.doctor import examine, send_test_mail
from lading.errors import ConfigError


@click.command()
@click.option("--role", type=click.Choice(["server", "agent", "both"]), default="both", show_default=True)
@click.option(
    "--file", "target", type=click.Path(dir_okay=False, path_type=Path), default=Path(CONFIG_NAME), show_default=True
)
@click.option(
    "--inbox",
    "inbox_path",
    default="inbox",
    show_default=True,
    help="The staging inbox (a path; for an agent also user@host:/path).",
)
@click.option("--xnat", "xnat_url", default="https://xnat.example.org", show_default=True, help="Your XNAT.")
@click.option("--omero", "omero_host", help="Your OMERO (a host name): settings for it, in place of XNAT.")
@click.option("--watch", default="instrument", show_default=True, help="The folder that the instrument writes to.")
def init(role: str, target: Path, inbox_path: str, xnat_url: str, omero_host: str | None, watch: str) -> None:
    """Write starter settings, explained line by line. Never overwrites."""
    if target.exists():
        raise ConfigError(f"{target} exists; it is left alone", next_command=f"lading --config {target} doctor")
    target.parent.mkdir(parents=True, exist_ok=True)
    repository, address = ("omero", omero_host) if omero_host else ("xnat", xnat_url)
    text = starter(role, inbox=inbox_path, repository=repository, address=address, watch=watch)
    target.write_text(text, encoding="utf-8")
    load(target)
    output.say(f"wrote {target}; edit it, then:")
    output.say_next(f"lading --config {target} doctor")


@click.command()
@click.option("--test-mail", metavar="ADDRESS", help="Only this: send one mail to ADDRESS.")
@json_option
@pass_app
def doctor(app: App, test_mail: str | None, as_json: bool) -> None:
    """Check settings, inboxes, space, clock, database, repository login and rights, mail; say what to do."""
    if test_mail:
        said = send_test_mail(app.config, test_mail)
        output.answer({"ok": True, "said": said}) if as_json else output.say(said)
        return
    answers = []
    for diagnosis in examine(app.own_config):
        answers.append(diagnosis)
        if not as_json:
            mark, style = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}[diagnosis.level]
            output.out.print(
                Text.assemble((f"{mark} ", style), (f"{diagnosis.area:<18} ", "bold"), diagnosis.text), soft_wrap=True
            )
            if diagnosis.next_command and diagnosis.level != "ok":
                output.say_next(diagnosis.next_command, "   ")
    failed = [d for d in answers if d.level == "fail"]
    if as_json:
        output.answer({"ok": not failed, "diagnoses": [d.as_dict() for d in answers]})
    else:
        output.say(f"\n{len(failed)} to mend" if failed else "\nall well", style="bold red" if failed else "bold green")
    sys.exit(1 if failed else 0)
