"""The arrows between the packages: what may import what, and what must import where optional packages are absent."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.interpreters import run_without

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path for package in ("transforms", "pipeline", "export", "whymatch") for path in (ROOT / package).rglob("*.py")
)

COMMANDS = ("bundle", "calibrate", "evaluate", "export", "priors", "train")
NAME_EXPORT = {f"pipeline.commands.{command}" for command in COMMANDS}

ORDER = {
    "transforms": ("core", "storage", "inputs", "serving", "tables", "explaining", "evaluating", "beam"),
    "pipeline": (
        "text",
        "runs",
        "options",
        "datasets",
        "demo",
        "inputs",
        "results",
        "audit",
        "evaluation",
        "notebook",
        "commands",
    ),
    "whymatch": (),
    "export": ("graphs", "training", "bundling", "ranking", "randomisation"),
}
"""The rooms of each package, in the order in which data flows: a room imports from itself and from those before it."""

MOST_MODULES = 13
ONE_A_FILE = {"pipeline/commands", "transforms/core/saliency"}
"""Rooms of one file a command or a method, which may be larger."""

HEAVY = {"torch", "torchvision"}
CORE = {"numpy", "scipy", "PIL"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """The dotted names of all modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def top(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows(path: Path) -> None:
    name, found = name_of(path), imports(path)
    packages = top(found)
    if name.startswith("transforms.core"):
        assert packages <= CORE | set(sys.stdlib_module_names) | {"transforms"}
        assert all(other.startswith("transforms.core") for other in found if other.startswith("transforms."))
    if name.startswith("transforms"):
        assert not packages & {"pipeline", "export", *HEAVY, "onnx"}
    if name.startswith("export"):
        assert not packages & {"pipeline", "whymatch", "apache_beam"}
        assert not any(other.startswith("transforms.beam") for other in found)
    if name.startswith("pipeline"):
        assert not packages & {*HEAVY, "onnx"}
        assert name in NAME_EXPORT or "export" not in packages
    assert ("fsspec" in packages) <= (name == "transforms.storage.drivers")
    assert ("onnxruntime" in packages) <= (name == "transforms.serving.runtime")
    assert not any(
        other.startswith("torchvision.transforms")
        and not other.startswith("torchvision.transforms.v2")
        and other != "torchvision.transforms"
        for other in found
    )
    assert "tests" not in packages
    assert "benchmarks" not in packages


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_data_flows_one_way(path: Path) -> None:
    package, *rooms = name_of(path).split(".")
    order = ORDER[package]
    if not rooms or rooms[0] not in order:  # the package itself, and the command line, which names every command
        assert path.name in ("__init__.py", "cli.py")
        return
    for other in imports(path):
        place = other.split(".")
        if place[0] == package and len(place) > 1 and place[1] in order:
            assert order.index(place[1]) <= order.index(rooms[0]), f"{name_of(path)} imports {other}"


def test_no_room_is_crowded() -> None:
    rooms = {path.parent for path in MODULES}
    for room in rooms:
        modules = [path for path in room.glob("*.py") if path.name != "__init__.py"]
        name = str(room.relative_to(ROOT))
        assert len(modules) <= MOST_MODULES or name in ONE_A_FILE, f"{name} has {len(modules)} modules"
        assert (room / "__init__.py").read_text().strip(), f"{name} does not say what lies there"


def is_command(path: Path) -> bool:
    return any(ast.unparse(node).startswith("COMMAND = ") for node in ast.parse(path.read_text()).body)


def test_workers_need_no_torch() -> None:
    names = [name_of(path).removesuffix(".__init__") for path in MODULES if not name_of(path).startswith("export")]
    code = "import importlib\n" + "".join(
        f"importlib.import_module({name!r})\n" for name in names if "local_worker" not in name
    )
    done = run_without({*HEAVY, "onnx", "onnxscript"}, code)
    assert done.returncode == 0, done.stderr


def test_bundling_needs_no_torch() -> None:
    needs_torch = {name_of(path) for path in MODULES if top(imports(path)) & HEAVY}
    indirect = {name_of(path) for path in MODULES if imports(path) & needs_torch}
    free = [
        name_of(path) for path in MODULES if name_of(path) not in needs_torch | indirect and "export" in name_of(path)
    ]
    assert {"export.bundling.from_onnx", "export.bundling.prefix"} <= set(free)
    code = "import importlib\n" + "".join(
        f"importlib.import_module({name.removesuffix('.__init__')!r})\n" for name in free
    )
    done = run_without({*HEAVY, "apache_beam"}, code)
    assert done.returncode == 0, done.stderr


def test_missing_runtime_is_a_clear_error() -> None:
    done = run_without({"onnxruntime"}, "import transforms.serving.runtime")
    assert "pip install onnxruntime" in done.stderr


def test_help_imports_neither_beam_nor_torch() -> None:
    commands = sorted(path.stem for path in (ROOT / "pipeline" / "commands").glob("[!_]*.py") if is_command(path))
    assert {"audit", "plan", "check", "summary", "erase"} <= set(commands)
    code = f"from pipeline.cli import main\nfor command in {commands}:\n" + (
        "    try: main([command, '--help'])\n    except SystemExit as stop: assert stop.code == 0, command"
    )
    done = run_without({*HEAVY, "apache_beam", "onnxruntime", "duckdb", "onnx"}, code)
    assert done.returncode == 0, done.stderr
    assert all(f"usage: whymatch {command} " in " ".join(done.stdout.split()) for command in commands), done.stdout
    assert "--manifest" in done.stdout


def test_a_foreign_package_of_the_same_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "transforms").mkdir()
    (tmp_path / "transforms" / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.path.insert(1, {str(ROOT)!r})\nimport pipeline"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "is not whymatch's" in done.stderr


def test_the_command_line_is_there_before_numpy() -> None:
    """``main`` sets the threads of numpy's BLAS, which numpy reads when it is loaded."""
    names = ("numpy", "scipy", "pyarrow")
    code = f"import sys; import pipeline.cli; print([name for name in {names} if name in sys.modules])"
    done = run_without({*HEAVY, "apache_beam", "onnxruntime"}, code)
    assert done.stdout == "[]\n", done.stderr
