"""An agent's tool calls with their twins: the same call in another wrapper, or another call in the same one."""

from __future__ import annotations

import json
import random

from gaming.item import Item, Template

FILES = (
    "src/models/user.py",
    "lib/parser.py",
    "django/db/query.py",
    "tests/test_io.py",
    "app/views.py",
    "core/cache.py",
)
WORDS = ("def save", "class Reader", "raise ValueError", "import os", "timeout", "max_length")


def _as_json(name: str, arguments: dict[str, object]) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def _as_block(name: str, arguments: dict[str, object]) -> str:
    call = {"arguments": dict(reversed(arguments.items())), "name": name}
    return f"<tool_call>\n{json.dumps(call, indent=2)}\n</tool_call>"


def _as_xml(name: str, arguments: dict[str, object]) -> str:
    parameters = "\n".join(f"<parameter={key}>{value}</parameter>" for key, value in arguments.items())
    return f"<function={name}>\n{parameters}\n</function>"


def _call(name: str, arguments: dict[str, object], wrong: dict[str, tuple[str, dict[str, object]]]) -> Item:
    """A call written as JSON; right in other wrappers, wrong as JSON too."""
    right = {"block": _as_block(name, arguments), "xml": _as_xml(name, arguments)}
    return Item(_as_json(name, arguments), right, {kind: _as_json(*other) for kind, other in wrong.items()}, {})


def view(rng: random.Random) -> Item:
    path, other = rng.sample(FILES, 2)
    start = rng.randint(10, 400)
    given: dict[str, object] = {"path": path, "start": start, "end": start + 40}
    return _call(
        "view_file",
        given,
        {
            "file": ("view_file", {**given, "path": other}),
            "line": ("view_file", {**given, "start": start + 300, "end": start + 340}),
            "tool": ("delete_file", {"path": path}),
        },
    )


def replace(rng: random.Random) -> Item:
    path, other = rng.sample(FILES, 2)
    old, new = rng.sample(WORDS, 2)
    given: dict[str, object] = {"path": path, "old": old, "new": new}
    return _call(
        "replace",
        given,
        {"file": ("replace", {**given, "path": other}), "swapped": ("replace", {**given, "old": new, "new": old})},
    )


def grep(rng: random.Random) -> Item:
    (path, other), word = rng.sample(FILES, 2), rng.choice(WORDS)
    command = f"cd /testbed && grep -rn '{word}' {path}"
    return Item(
        command,
        {"fence": f"```bash\n{command}\n```", "json": _as_json("bash", {"command": command})},
        {
            "file": command.replace(path, other),
            "program": f"cd /testbed && rm -rn '{word}' {path}",
            "pattern": command.replace(word, rng.choice([w for w in WORDS if w != word])),
        },
        {},
    )


def run_tests(rng: random.Random) -> Item:
    path, other = rng.sample(FILES, 2)
    command = f"cd /testbed && python -m pytest {path} -x"
    return Item(
        command,
        {"fence": f"```bash\n{command}\n```", "xml": _as_xml("bash", {"command": command})},
        {"file": command.replace(path, other), "program": f"cd /testbed && git checkout {path}"},
        {},
    )


TEMPLATES: tuple[Template, ...] = (view, replace, grep, run_tests)
