"""Stands in for the JVM that `omero import` starts: the same arguments, output and exit codes, and Python's import underneath.

What it reproduces is what OMERO's Java importer does on the outside: candidates are searched first, each is imported, YAML goes to
stdout as one document for each fileset, the summary to stderr; the exit code is 0 with `-c`, whatever happened. Faults are read
from `faults.json` beside the program.
"""

import argparse
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

START_CLASS = "ome.formats.importer.cli.CommandLineImporter"


def install(folder: Path) -> Path:
    """Make `folder` one to put on PATH: it has a `java`. Returns a folder with a jar, for `--clientdir`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "java"
    program.write_text(
        f"#!{sys.executable}\nfrom lading.testing import java_double\njava_double.main({str(folder)!r})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    jars = folder / "libs"
    jars.mkdir(exist_ok=True)
    (jars / "omero-blitz.jar").touch()
    return jars


def faults(folder: Path, **wanted: object) -> None:
    """From now on: `die_after=N` imports (kill -9 of itself), `skip=NAME` (errors on that file), `silent=True` (no output)."""
    (folder / "faults.json").write_text(json.dumps(wanted))


def calls(folder: Path) -> list[list[str]]:
    """The arguments of every JVM so far."""
    log = folder / "calls.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def main(folder: str) -> None:
    """Be `java`."""
    if "-version" in sys.argv:
        sys.stderr.write('openjdk version "17.0.15"\n')
        sys.exit(0)
    if START_CLASS not in sys.argv:
        sys.exit(97)
    arguments = sys.argv[sys.argv.index(START_CLASS) + 1 :]
    with open(Path(folder) / "calls.jsonl", "a") as log:
        log.write(json.dumps(arguments) + "\n")
    file = Path(folder) / "faults.json"
    sys.exit(_Run(_parsed(arguments), json.loads(file.read_text()) if file.exists() else {}).carry_out())


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    for name in ("-s", "-p", "-k"):
        parser.add_argument(name)
    for name in ("target", "output", "checksum-algorithm", "encrypted", "transfer", "parallel-upload"):
        parser.add_argument(f"--{name}")
    for name in ("no-thumbnails", "no-stats-info", "no-upgrade-check"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("-c", action="store_true")
    parser.add_argument("paths", nargs="*")
    return parser.parse_args(list(arguments))


class _Run:
    def __init__(self, options: argparse.Namespace, wanted: dict[str, object]) -> None:
        self._options, self._faults = options, wanted
        self._began = time.monotonic()
        self._files = self._filesets = self._images = self._errors = 0

    def carry_out(self) -> int:
        import omero.clients  # noqa: PLC0415 - a JVM that only says its version needs no OMERO

        client = omero.client(host=self._options.s, port=int(self._options.p))
        client.joinSession(self._options.k).detachOnDestroy()
        try:
            for used in self._candidates():
                if not self._import(client, used) and not self._options.c:
                    return 2
        finally:
            client.closeSession()
            self._summary()
        return 0

    def _candidates(self) -> list[list[Path]]:
        """The files of each fileset; what is no image is an error that is only counted."""
        from omero_importer.self_contained import SelfContained, Together  # noqa: PLC0415

        found: dict[tuple[Path, ...], None] = {}
        for path in map(Path, self._options.paths):
            folder = path.parent
            decider = SelfContained(folder, {one.name for one in folder.iterdir() if one.is_file()})
            verdict = decider.decide(path.name)
            if isinstance(verdict, Together) and path.name != self._faults.get("skip"):
                found[tuple(folder / name for name in verdict.files)] = None
            else:
                self._errors += 1
                sys.stderr.write(f"ERROR FILE_EXCEPTION: {path}: loci.formats.UnknownFormatException\n")
        return [list(files) for files in found]

    def _import(self, client: object, used: list[Path]) -> bool:
        from lading.testing.omero_import import Importing  # noqa: PLC0415
        from omero_importer.client_paths import client_path  # noqa: PLC0415
        from omero_importer.ice import unloaded  # noqa: PLC0415

        kind, _, number = (self._options.target or "").partition(":")
        settings = {"userSpecifiedTarget": unloaded(kind, int(number))} if kind else {}
        contents = {client_path(path.absolute()): path.read_bytes() for path in used}
        ours = Importing(client, contents, settings=settings).announce()
        if self._faults.get("die_before") == self._filesets:
            os.kill(os.getpid(), signal.SIGKILL)
        ended = ours.upload_all().verify().wait()
        if self._faults.get("die_after") == self._filesets:
            os.kill(os.getpid(), signal.SIGKILL)
        if ended.error:
            self._errors += 1
            sys.stderr.write(f"Error on import: {ended.error}\n")
            return False
        self._files, self._filesets = self._files + len(used), self._filesets + 1
        self._images += len(ended.images)
        if not self._faults.get("silent"):
            sys.stderr.write("Imported objects:\n")
            ids = ",".join(str(image.id.val) for image in ended.images)
            sys.stdout.write(f"---\n- Fileset: {ended.fileset}\n  Image: [{ids}]\n")
            sys.stdout.flush()
        return True

    def _summary(self) -> None:
        if self._faults.get("silent"):
            return
        counts = [
            f"{number} {word}{'' if number == 1 else 's'}"
            for number, word in (
                (self._files, "file"),
                (self._filesets, "fileset"),
                (self._images, "image"),
                (self._errors, "error"),
            )
        ]
        took = time.monotonic() - self._began
        sys.stderr.write(
            f"\n==> Summary\n{counts[0]} uploaded, {counts[1]} created, {counts[2]} imported, {counts[3]} in 0:00:{took:06.3f}\n"
        )
