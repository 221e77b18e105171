"""The tests' own house: they lie where what they test lies, and what they share lies in tests/support."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
FOLDERS = ("transforms", "pipeline", "export", "benchmarks", "examples", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
OF_THE_HOUSE = {"house", "support"}
"""Folders of tests that mirror no room."""

TEST_MODULE = re.compile(r"\btests(?:\.\w+)*?\.test_\w+")
"""A test file by its dotted name, as an import, an option or a command has it."""


def imported(source: str) -> set[str]:
    """The dotted names of what a module imports, wherever in it; a relative name begins with a dot."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def strings(source: str) -> set[str]:
    """The texts in a module, such as a factory by its dotted name; comments are none."""
    nodes = ast.walk(ast.parse(source))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize(
    "code",
    [
        "import tests.room.test_a",
        "from tests.room import test_a",
        "from tests.room.test_a import helper",
        "def late():\n    from tests.test_a import helper",
        "factory = 'tests.room.test_a:network'",
    ],
)
def test_a_use_of_a_test_file_is_seen(code: str) -> None:
    assert any(TEST_MODULE.search(name) for name in imported(code) | strings(code))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_imported_from_a_test_file(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    names = imported(source)
    assert not any(name.startswith(".") for name in names), "relative imports hide what they name"
    if path != Path(__file__):
        names |= strings(source)
    found = [match[0] for name in sorted(names) if (match := TEST_MODULE.search(name))]
    assert not found, f"{found}: what tests share lies in tests/support"


@pytest.mark.parametrize("path", [ROOT / "CONTRIBUTING.md", ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")], ids=str)
def test_no_command_runs_a_test_file_as_a_module(path: Path) -> None:
    assert not TEST_MODULE.search(path.read_text(encoding="utf-8"))


def test_what_is_shared_tests_nothing() -> None:
    for path in (TESTS / "support").rglob("*.py"):
        names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        assert not path.name.startswith("test_"), path
        assert not any(name.startswith("test_") for name in names), path


def test_tests_mirror_the_rooms() -> None:
    """A folder of tests is a room: of transforms, which has no folder of its own here, or of another package."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    for folder in folders:
        if folder.parts[0] not in OF_THE_HOUSE:
            assert (ROOT / folder).is_dir() or (ROOT / "transforms" / folder).is_dir(), (
                f"tests/{folder} mirrors no room"
            )


STARTS_BEAM = """
import apache_beam as beam
import pytest

@pytest.fixture(scope="module")
def ran():
    return [1] | beam.Map(str)

def test_by_itself(): assert [1] | beam.Map(str) == ["1"]
def test_made(ran): assert ran == ["1"]
def test_made_before(ran): assert ran == ["1"]
def test_of_no_pipeline(): beam.Pipeline()

@pytest.mark.engine
def test_marked(ran): assert [1] | beam.Map(str) == ran
"""


def test_a_test_that_starts_beam_is_marked_engine_or_fails(tmp_path: Path) -> None:
    file = tmp_path / "test_beam.py"
    file.write_text(STARTS_BEAM, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.engine", "-p", "no:cacheprovider", "-v", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    ends = dict(re.findall(r"::(\w+) (PASSED|FAILED|ERROR)", done.stdout))
    assert ends == {
        "test_by_itself": "FAILED",
        "test_made": "FAILED",
        "test_made_before": "FAILED",
        "test_of_no_pipeline": "PASSED",
        "test_marked": "PASSED",
    }, done.stdout
    assert "its fixture ran starts Beam: mark the test with @pytest.mark.engine" in done.stdout
