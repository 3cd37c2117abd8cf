"""The architecture as a test: a file imports only from its own layer and those below, wherever the import stands."""

import ast
import subprocess
import sys
from pathlib import Path

import superrl

PACKAGE = Path(superrl.__file__).parent

LAYERS = (
    {"records", "config", "plain", "complaint", "metrics", "errors", "truncation", "home"},
    {
        "losses",
        "imitation",
        "importing",
        "advantages",
        "reduction",
        "balance",
        "similarity",
        "steps",
        "endpoint",
        "telemetry",
        "visits",
        "timing",
        "beside",
        "parallel",
        "process",
        "compiled",
    },
    {"packing", "methods", "data", "rewards", "tasks", "models", "text", "windows", "rotary"},
    {"sampling", "learner", "rollout", "position", "summary"},
    {"checkpoint", "runfolder", "signals", "report", "show", "doctor", "inspection"}
    | {"raster", "why", "page", "svg", "stepview", "steppage"}
    | {
        "setup",
        "engine",
        "drawing",
        "persistence",
        "trackers",
        "training",
        "opening",
        "saving",
        "evaluation",
        "comparison",
        "rewrite",
        "pivots",
        "trajectories",
    },
    {"cli", "arguments", "exits", "face", "__main__"},
)
"""From the ground up: vocabulary, mathematics, problems and methods, state, prose, face."""

RANK = {name: rank for rank, names in enumerate(LAYERS, start=1) for name in names}
FACE = "__init__"
"""The package's own face may reach, lazily, for everything."""


def unit(file: Path) -> str:
    """The module, or sub-package, directly under superrl that a file belongs to: what a layer is assigned to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_units(tree: ast.AST, package: Path = PACKAGE) -> set[str]:
    """The units of superrl that a file imports, at its top or inside a function, for running or for typing."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("superrl.")}


def upward_imports(files: list[Path]) -> list[str]:
    """`losses.py -> learner` for every import of a higher layer."""
    bad = []
    for file in files:
        if unit(file) == FACE:
            continue
        units = imported_units(ast.parse(file.read_text(encoding="utf-8")))
        bad += [
            f"{file.relative_to(PACKAGE)} -> {target}"
            for target in sorted(units)
            if RANK.get(target, len(LAYERS)) > RANK[unit(file)]
        ]
    return bad


def test_every_file_has_a_layer() -> None:
    strangers = sorted({unit(file) for file in PACKAGE.rglob("*.py")} - set(RANK) - {FACE})
    assert strangers == [], f"add to LAYERS, in the lowest layer that its imports allow: {strangers}"


def test_imports_never_point_upwards() -> None:
    assert upward_imports(sorted(PACKAGE.rglob("*.py"))) == []


def test_the_walk_sees_imports_inside_functions_and_of_sub_packages() -> None:
    source = "def f():\n    from superrl.learner import learner\n    import superrl.cli\nfrom superrl import training\n"
    assert imported_units(ast.parse(source)) == {"learner", "cli", "training"}


def test_light_modules_load_no_torch() -> None:
    """`superrl --help` and reading a recipe must not wait for torch."""
    modules = "superrl.config", "superrl.cli", "superrl.errors", "superrl.metrics", "superrl.records", "superrl.report"
    for module in (*modules, "superrl.show", "superrl.why", "superrl.page", "superrl.doctor", "superrl.runfolder"):
        code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"{module} imports torch"
