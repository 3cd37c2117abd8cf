"""Actions of agents are compared as calls: the tool first, then what it is given."""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.similarity import indel, tool_call
from superrl.similarity.tools import NAME, compare, same_file


def call(name, **arguments):
    return json.dumps({"name": name, "arguments": arguments})


VALUES = {
    "equal": (call("view", path="a.py"), call("view", path="a.py"), 1.0),
    "no arguments": (call("submit"), call("submit"), 1.0),
    "a wrong number is wrong": (call("view", n=10), call("view", n=11), 0.3),
    "a number as text is a number": (call("view", n="10"), call("view", n=10), 1.0),
    "a list as text is a list": (call("view", n="[1, 20]"), call("view", n=[1, 30]), 0.3 + 0.7 * 0.5),
    "a list by place": (call("view", n=[1]), call("view", n=[1, 2, 3, 4]), 0.3 + 0.7 * 0.25),
    "true is not 1": (call("view", n=True), call("view", n=1), 0.3),
    "a string by indel": (call("view", path="ab"), call("view", path="ac"), 0.3 + 0.7 * 0.5),
    "a missing argument": (call("view", path="a"), call("view", path="a", n=1), 0.3 + 0.7 * 0.5),
    "an object by its keys": (call("view", o={"a": 1, "b": 2}), call("view", o={"a": 1, "b": 3}), 0.3 + 0.7 * 0.5),
    "a string against a number": (call("view", n="ab"), call("view", n=7), 0.3),
    "another tool": (call("view", path="ab"), call("open", path="ac"), 0.3 * 0.5),
    "the order of calls is free": (f"[{call('a')}, {call('b')}]", f"[{call('b')}, {call('a')}]", 1.0),
    "one call too many": (f"[{call('a')}, {call('b')}]", call("a"), 2 / 3),
    "the same program": ("ls ab", "ls ac", 0.3 + 0.7 * (0.3 + 0.7 * 0.5)),
    "another directory": ("cd ab && ls", "cd ac && ls", 0.95 + 0.05 * indel("cd ab", "cd ac")),
    "another program": ("cat ab", "tac ab", 0.3 * indel("cat ab", "tac ab")),
    "a pipe too many": ("ls | head", "ls", 0.3 + 0.7 * 2 / 3),
    "another limit": (
        call("bash", command="ls", timeout=1), call("bash", command="ls", timeout=2), 0.95,
    ),
    "a shell by another name": (call("execute_bash", command="ls"), "ls", 1.0),
    "a shell against a tool": ("ls", call("ls"), 0.0),
}  # fmt: skip
COMMANDS = st.lists(
    st.sampled_from(["ls -l", "cat a.py", "cd /x", "python t.py", "grep -n 'a b' c.py", "sed -i 's/a/b/' c.py"]),
    min_size=1,
    max_size=4,
).map(" && ".join)
CALLS = st.builds(
    call,
    st.sampled_from(["view", "edit", "submit"]),
    path=st.sampled_from(["a.py", "b.py"]),
    n=st.integers(0, 3) | st.text(max_size=4),
)
LISTS = st.lists(CALLS, min_size=1, max_size=4).map(lambda calls: f"[{', '.join(calls)}]")
ACTIONS = COMMANDS | CALLS | LISTS | st.text(max_size=30)


@pytest.mark.parametrize("name", VALUES)
def test_by_hand(name):
    action, expert, value = VALUES[name]
    assert tool_call(action, expert) == pytest.approx(value, abs=1e-12)


def test_the_wrapper_that_inflates_ratcliff_changes_nothing():
    bare = "cd /testbed && python setup.py antlr", "cd /testbed && pip install -e ."
    wrapped = [f"<function=bash>\n<parameter=command>{command}</parameter>\n</function>" for command in bare]
    assert tool_call(*wrapped) == tool_call(*bare) < 0.1
    assert indel(*wrapped) > 0.8


@given(ACTIONS, ACTIONS)
def test_bounds_symmetry_and_identity(action, expert):
    found = compare(action, expert)
    assert 0.0 <= found.value <= 1.0
    assert math.isclose(found.value, compare(expert, action).value, abs_tol=1e-9)
    assert compare(action, action)[:3] == (1.0, False, 1.0)
    assert compare(action, action).file in (None, 1.0)


@given(COMMANDS | CALLS, COMMANDS | CALLS)
def test_another_tool_is_never_worth_more_than_its_name(action, expert):
    found = compare(action, expert)
    assert found.value <= NAME if found.tool == 0.0 else found.value >= NAME * 0.95 * 0.95


PARTS = {
    "same tool, same file": ("sed -n '1,9p' src/a.py", "cd /t && sed -n '1,5p' /t/src/a.py", 1.0, 1.0),
    "same tool, another file": ("cat b.py", "cat a.py", 1.0, 0.0),
    "another tool, same file": ("cat a.py", "head a.py", 0.0, 1.0),
    "no file to name": ("ls", "ls -l", 1.0, None),
    "none named": ("ls", "cat a.py", 0.0, 0.0),
    "arguments name files": (call("view", path="./src/a.py"), call("edit", path="src/a.py"), 0.0, 1.0),
    "the expert's first file counts": ("cat b.py", "cp a.py b.py", 0.0, 0.0),
}


@pytest.mark.parametrize("name", PARTS)
def test_tool_and_file(name):
    action, expert, tool, file = PARTS[name]
    assert compare(action, expert)[2:] == (tool, file)


def test_a_path_from_the_root_may_be_the_relative_one():
    assert same_file("/t/src/a.py", "src/a.py") and same_file("a.py", "src/a.py") and same_file("a", "a")
    assert not same_file("ba.py", "a.py") and not same_file("src/a.py", "lib/a.py")


def test_too_many_parts_are_compared_as_text():
    action, expert = "ls a; " * 100, "ls b; " * 100
    found = compare(action, expert)
    assert found.bounded
    assert 0.8 < found.value < 1.0
    assert compare(call("bash", command=action), expert) == found
    assert compare(action, action) == (1.0, False, 1.0, None)
    assert not compare("ls a; " * 60, "ls b; " * 60).bounded


HARD = [
    *("[" * 10_000, "a;" * 5_000, "ls a && " * 1_500, "'" * 10_000, "\\" * 9_999, "$(" * 5_000, "\n" * 9_999),
    *("<<a\n" * 2_500, "\0\ud800" * 5_000, f"[{', '.join([call('a')] * 500)}]", "<function=a><parameter=b>1\n" * 400),
    '{"name":"a","arguments":{"x":' + "[" * 70,
]


@pytest.mark.parametrize("expert", HARD)
def test_degenerate_text_is_soon_compared(expert):
    before = time.process_time()
    for action in HARD:
        assert 0.0 <= tool_call(action, expert) <= 1.0
    assert time.process_time() - before < 2.0
