"""Agents' importers on rows nobody would write, and on the tools' own files where SUPERRL_DATA names their folder."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_rows import MINI_2, OPENHANDS_OLD, ROWS, SWE_AGENT_TEXT, damaged, row
from superrl.data.files import read_rows
from superrl.data.importers.agents import AGENT_FORMATS, whole
from superrl.data.importers.base import Drop, ImportOptions
from superrl.records import Problem

FORMATS = {form.name: form for form in AGENT_FORMATS}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    ["messages", "history", "trajectory", "steps", "role", "content", "text", "tool_calls", "function", "name",
     "arguments", "source", "action", "args", "observation", "results", "message", "info", "resolved", "instance_id",
     "id", "extra", "actions", "object", "output", "type", "agent", "cause", "choices", "schema_version"]
)  # fmt: skip
WORDS = SCALARS | st.sampled_from(
    ["assistant", "user", "system", "agent", "run", "message", "response", "error", "```bash\nls\n```", "<function=a>",
     "</function>", "ATIF-v1.7", "<returncode>1</returncode>", "[1", "{}", "\ud800", "think", "submit"]
)  # fmt: skip
JSON = st.recursive(
    WORDS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


@given(st.dictionaries(KEYS, JSON, max_size=6), st.booleans(), st.booleans())
def test_no_row_makes_an_importer_raise(values, unresolved, submit):
    for form in AGENT_FORMATS:
        assert form.looks_like([row(values)]) in (True, False)
        for item in form.convert(row(values), ImportOptions(unresolved=unresolved, submit=submit)):
            assert isinstance(item, Problem | Drop)


@given(
    st.sampled_from([*ROWS.values(), MINI_2, SWE_AGENT_TEXT, OPENHANDS_OLD]),
    st.lists(st.tuples(st.lists(st.integers(0, 20), min_size=1, max_size=8), JSON), min_size=1, max_size=3),
)
def test_damaged_rows_are_still_problems_or_drops(values, damage):
    for path, junk in damage:
        values = damaged(values, path, junk)
    for form in AGENT_FORMATS:
        form.looks_like([row(values)])
        for item in form.convert(row(values), ImportOptions(unresolved=True)):
            assert isinstance(item, Drop) or all(step.action for step in item.demonstrations[0].steps)
            if isinstance(item, Problem):
                "".join(step.action for step in item.demonstrations[0].steps).encode()


FOLDER = Path(os.environ.get("SUPERRL_DATA", ""))


def real(name):
    if not os.environ.get("SUPERRL_DATA") or not (FOLDER / name).is_file():
        pytest.skip(f"needs {name} in the folder that SUPERRL_DATA names")
    path = FOLDER / name
    if name.endswith(".jsonl") or name.endswith(".xz"):
        return read_rows(str(path))
    value = json.loads(path.read_text())
    items = value if isinstance(value, list) else [value]
    return whole([row(item, str(path), number) for number, item in enumerate(items, start=1)])


@pytest.mark.parametrize(
    ("name", "form", "steps", "dropped"),
    [
        ("formats/mini_swe_agent.traj.json", "mini-swe-agent", [2], {}),
        ("formats/sweagent_function_calling.traj", "swe-agent", [5], {}),
        ("formats/sweagent_marshmallow.traj", "swe-agent", [11], {}),
        ("formats/swesmith_ft_xml.jsonl", "swe-smith-xml", [37, 44, 22], {}),
        ("formats/openhands_output.jsonl", "openhands", [22, 33], {"no_action": 1, "unfinished": 1}),
    ],
)
def test_the_tools_own_files(name, form, steps, dropped):
    rows = real(name)
    assert next(form.name for form in AGENT_FORMATS if form.looks_like(rows)) == form
    out = [item for one in rows for item in FORMATS[form].convert(one, ImportOptions())]
    assert [len(item.demonstrations[0].steps) for item in out if isinstance(item, Problem)] == steps
    assert Counter(item.reason for item in out if isinstance(item, Drop)) == dropped


def test_all_trajectories_of_the_verified_benchmark():
    rows = real("swe/miniswe_verified.jsonl.xz")
    for unresolved, trajectories, steps, dropped in (
        (False, 298, 11218, {"unresolved": 98, "no_action": 389}),
        (True, 396, 15623, {"no_action": 575}),
    ):
        out = [
            item
            for one in rows
            for item in FORMATS["mini-swe-agent"].convert(one, ImportOptions(unresolved=unresolved))
        ]
        problems = [item for item in out if isinstance(item, Problem)]
        assert len(problems) == trajectories and len({problem.id for problem in problems}) == trajectories
        found_steps = [step for problem in problems for step in problem.demonstrations[0].steps]
        assert len(found_steps) == steps and Counter(item.reason for item in out if isinstance(item, Drop)) == dropped
        assert all(step.action and step.tool and "```" not in step.action.partition("\n")[0] for step in found_steps)
        assert not any(step.observation.startswith("<returncode>") for step in found_steps)
        assert all(problem.meta["repo"].count("/") == 1 and "<" not in problem.prompt[:1] for problem in problems)
