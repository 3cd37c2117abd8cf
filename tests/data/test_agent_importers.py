"""Agents' trajectories: every format to the same steps, what is dropped and why, and rows of any kind."""

import json
from collections import Counter

import pytest

from agent_rows import (
    ATIF,
    ISSUE,
    MINI,
    MINI_2,
    OPENAI,
    OPENHANDS,
    OPENHANDS_OLD,
    ROWS,
    SWE_AGENT,
    SWE_AGENT_TEXT,
    TICKS,
    XML,
    called,
    row,
    said,
)
from superrl.data.importers.agents import AGENT_FORMATS, calls, observations, smith, task, trajectory, whole
from superrl.data.importers.agents.calls import Call
from superrl.data.importers.base import Drop, ImportOptions
from superrl.records import Problem

FORMATS = {form.name: form for form in AGENT_FORMATS}


def found(values, **options):
    """The format that takes a row as its own, and what it makes of it."""
    form = next(form for form in AGENT_FORMATS if form.looks_like([row(values)]))
    out = list(form.convert(row(values), ImportOptions(**options)))
    problems = [item for item in out if isinstance(item, Problem)]
    drops = Counter(item.reason for item in out if isinstance(item, Drop))
    return form.name, problems, dict(drops)


def only(values, **options):
    """The steps of the one problem that a row makes."""
    _, (problem,), _ = found(values, **options)
    (demonstration,) = problem.demonstrations
    assert demonstration.text == "\n".join(step.action for step in demonstration.steps)
    return problem, demonstration.steps


@pytest.mark.parametrize(("name", "values"), ROWS.items(), ids=ROWS)
def test_every_format_knows_its_rows_and_none_asked_before_it_does(name, values):
    assert found(values)[0] == name


def test_rows_that_are_no_agent_s_are_nobody_s():
    solution = "```python\nx = 1\n```\n1. **Add** 2"
    others = (
        {"question": "1+1", "answer": "2"},
        {"messages": [said("user", "1+1"), said("assistant", solution)]},
        {"messages": [said("user", "1+1"), said("assistant", solution), said("user", "and?"), said("assistant", "2")]},
        {"prompt": "1+1", "demonstrations": [{"steps": ["1", "2"]}], "steps": ["1"]},
        said("user", "1+1"),
    )
    for values in others:
        assert [form.name for form in AGENT_FORMATS if form.looks_like([row(values)])] == []


def test_mini_swe_agent_s_command_is_the_action_and_nothing_else():
    problem, steps = only(MINI)
    assert problem.messages == ({"role": "user", "content": "It fails."},)
    assert problem.id == "django__django-7:3"
    assert problem.meta == {
        "repo": "django/django",
        "instance_id": "django__django-7",
        "resolved": True,
        "scaffold": "mini-swe-agent 1.15.0",
    }
    assert problem.demonstrations[0].source == "mini-swe-agent 1.15.0/m"
    assert [step.action for step in steps] == [
        "cd /testbed && grep -n x a.py",
        "sed -i 's/x/y/' a.py",
        "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git diff",
    ]
    assert [step.tool for step in steps] == ["grep", "sed -i", "submit"]
    assert [step.thought for step in steps] == ["Look.\n```python\nx = 1\n```\nso:", "Edit.", "Done."]
    assert [step.observation for step in steps] == ["1:x", "[returncode 4]\nno such file", "diff --git"]


def test_a_turn_that_the_scaffold_refused_is_dropped_where_it_stands():
    drops = [item for item in FORMATS["mini-swe-agent"].convert(row(MINI), ImportOptions()) if isinstance(item, Drop)]
    assert drops == [Drop("folder/file.jsonl, line 3, turn 2", "no_action")]


def test_the_closing_step_goes_if_asked_and_is_counted():
    _, (problem,), drops = found(MINI, submit=False)
    assert [step.tool for step in problem.demonstrations[0].steps] == ["grep", "sed -i"]
    assert drops == {"no_action": 1, "submit": 1}
    assert [step.tool for step in only(SWE_AGENT, submit=False)[1]] == ["find_file", "bash"]


def test_a_scaffold_with_a_shell_alone_has_commands_also_when_it_calls_them():
    name, _, drops = found(MINI_2)
    _, steps = only(MINI_2)
    assert name == "mini-swe-agent" and drops == {"no_action": 1}
    assert [step.action for step in steps] == [
        "ls",
        '[{"name": "bash", "arguments": {"command": "cat a.py"}}, {"name": "bash", "arguments": {"command": "pwd"}}]',
        "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT",
    ]
    assert [step.tool for step in steps] == ["ls", "cat+pwd", "submit"]
    assert [step.observation for step in steps] == ["a.py", "x = 1\n[returncode 127]\nsh: pwd: not found", "diff"]


def test_a_file_that_is_one_conversation_is_one_row():
    rows = [row(message, number=i) for i, message in enumerate(MINI["messages"], start=1)]
    (one,) = whole(rows)
    name, (problem,), _ = found(one.values)
    assert name == "mini-swe-agent" and len(problem.demonstrations[0].steps) == 3
    assert whole([row(MINI), row(XML)]) == [row(MINI), row(XML)] and whole([]) == []


def test_openai_responses_are_read_from_what_was_run():
    item = {
        "object": "response",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Look."}]}],
        "extra": {"actions": [{"command": "ls", "tool_call_id": "c1"}]},
    }
    messages = [said("user", ISSUE), item, {"type": "function_call_output", "call_id": "c1", "output": "a.py"}]
    _, (step,) = only({"messages": messages, "trajectory_format": "mini-swe-agent-1.1"})
    assert (step.action, step.thought, step.observation) == ("ls", "Look.", "a.py")


def test_swe_agent_s_history_has_calls_and_its_demonstration_is_not_the_agent_s():
    problem, steps = only(SWE_AGENT)
    assert problem.prompt == "It fails." and problem.id == "folder/file.jsonl:3"
    assert [step.action for step in steps] == [
        '{"name": "find_file", "arguments": {"name": "a.py"}}',
        '{"name": "bash", "arguments": {"command": "ls"}}',
        '{"name": "submit", "arguments": {}}',
    ]
    assert [step.tool for step in steps] == ["find_file", "bash", "submit"]
    assert steps[0].observation == "Found\n(Open file: n/a)\n(Current directory: /r)"
    assert found(SWE_AGENT)[2] == {"no_action": 1}


def test_swe_agent_s_older_text_is_a_command():
    problem, steps = only(SWE_AGENT_TEXT)
    assert (problem.prompt, problem.id) == ("It fails.", "a__b-1:3")
    assert [step.action for step in steps] == ["find_file a.py", "edit 1:1\ny\nend_of_edit", "submit"]
    assert [step.thought for step in steps] == ["Look.", "Edit.", "Done."]
    assert [step.tool for step in steps] == ["find_file", "edit", "submit"]


def test_swe_agent_calls_its_files_after_their_instances():
    form = FORMATS["swe-agent"]
    (problem,) = (
        item
        for item in form.convert(row(SWE_AGENT, "runs/a__b-2/a__b-2.traj", 1), ImportOptions())
        if isinstance(item, Problem)
    )
    assert (problem.id, problem.meta["repo"]) == ("a__b-2:1", "a/b")


def test_xml_is_the_same_call_as_json():
    problem, steps = only(XML)
    assert problem.prompt == "Repository: /testbed\n\nIt fails."
    assert problem.meta["repo"] == "pandas-dev/pandas" and problem.meta["resolved"] is None
    assert json.loads(steps[0].action) == {
        "name": "str_replace_editor",
        "arguments": {"command": "view", "path": "/testbed/a.py", "view_range": [1, 5]},
    }
    assert json.loads(steps[1].action)["arguments"]["file_text"] == "[1]"
    assert steps[2].action == '{"name": "submit", "arguments": {}}'
    assert (steps[0].thought, steps[0].observation) == ("Look.", "1\tx")
    assert found(XML)[2] == {"no_action": 1}


def test_ticks_are_the_last_block_of_the_message_also_in_a_column_of_json_text():
    problem, steps = only(TICKS)
    assert (problem.id, problem.prompt) == ("t.1", "It fails.")
    assert [step.action for step in steps] == ["find_file a.py", "submit"]
    assert steps[0].thought == "Like this:\n```python\nx\n```\nLook."


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("a\n```\nls\n```", "ls"),
        ("```\nls\n```\n```bash\npwd\n```\nend", "pwd"),
        ("```\ncat > a.md <<EOF\n```python\nx\n```\nEOF\n```", "cat > a.md <<EOF\n```python\nx\n```\nEOF"),
        ("no block", None),
        ("```\nnever closed", None),
        ("```\nls\n```python\nx\n```\nnever closed", None),
        ("inline ```ls``` only", None),
    ],
)
def test_the_last_top_level_block(text, body):
    assert smith.ticks_turn(smith.Talk("assistant", text, {})).command == body


def test_calls_of_one_turn_are_one_step_and_talk_is_none():
    problem, steps = only(OPENAI)
    assert problem.messages == (
        {"role": "system", "content": "You book flights."},
        {"role": "user", "content": "Book one."},
    )
    assert [json.loads(step.action) for step in steps] == [
        [{"name": "find", "arguments": {"to": "A"}}, {"name": "seats", "arguments": {"n": 3}}],
        {"name": "book", "arguments": {"n": 1}},
    ]
    assert [step.tool for step in steps] == ["find+seats", "book"]
    assert [step.thought for step in steps] == ["Two at once.", "Booking."]
    assert [step.observation for step in steps] == ["found\nfree", "ok"]
    assert found(OPENAI)[2] == {"no_action": 2}


def test_a_call_whose_arguments_are_no_json_was_refused():
    broken = {"function": {"name": "book", "arguments": '{"n": 1'}}
    assert calls.of_openai([broken]) == () == calls.of_openai([called("find"), broken]) == calls.of_openai("book")
    assert calls.of_openai([called("find", to="A", n=None)]) == (Call("find", {"to": "A"}),)
    assert calls.of_openai([{"function": {"name": "submit", "arguments": ""}}]) == (Call("submit", {}),)


def test_atif_leaves_out_what_was_copied():
    problem, (step,) = only(ATIF)
    assert problem.prompt == "Make hello.txt." and problem.demonstrations[0].source == "a 1.0/m"
    assert step.action == '{"name": "write", "arguments": {"path": "hello.txt", "text": "hé"}}'
    assert (step.thought, step.observation) == ("Easy.\n\nWriting.", "written")
    assert found(ATIF)[2] == {"no_action": 1}


def test_openhands_events_are_turns():
    problem, steps = only(OPENHANDS)
    assert problem.prompt == "Repository: /workspace/b\n\nIt fails." and problem.meta["repo"] == "a/b"
    assert [step.action for step in steps] == [
        '{"name": "execute_bash", "arguments": {"command": "ls"}}',
        '[{"name": "execute_bash", "arguments": {"command": "make"}}, '
        '{"name": "editor", "arguments": {"path": "a.c"}}]',
        '{"name": "finish", "arguments": {"message": "done"}}',
    ]
    assert [step.tool for step in steps] == ["execute_bash", "execute_bash+editor", "finish"]
    assert [step.observation for step in steps] == ["a.c", "[returncode 2]\nfailed\nint x;", ""]
    assert found(OPENHANDS)[2] == {"no_action": 1}


def test_thinking_aloud_is_the_thought_of_the_next_step():
    _, steps = only(OPENHANDS)
    assert steps[1].thought.split("\n\n") == ["Hm.", "Both."]


def test_older_openhands_has_pairs_and_no_functions():
    _, (step,) = only(OPENHANDS_OLD)
    assert (step.action, step.tool, step.thought) == ("ls", "ls", "Look.")
    assert step.observation == "[returncode 1]\na.c"


def test_only_solved_runs_unless_asked_and_a_broken_off_one_is_not_known_to_be_solved():
    unsolved = MINI | {"resolved": False}
    broken = OPENHANDS | {"error": "RuntimeError: maximum iteration"}
    assert found(unsolved)[1:] == ([], {"unresolved": 1}) and found(broken)[1:] == ([], {"unfinished": 1})
    assert only(unsolved, unresolved=True)[0].meta["resolved"] is False
    assert len(only(broken, unresolved=True)[1]) == 3
    assert len(only(broken | {"report": {"resolved": True}})[1]) == 3
    assert found(MINI_2 | {"info": {"exit_status": "LimitsExceeded"}})[2] == {"unfinished": 1}


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("mini-swe-agent", {"messages": "no list"}, "malformed"),
        ("mini-swe-agent", MINI | {"messages": [said("system", "s"), *MINI["messages"][2:3]]}, "no_task"),
        ("mini-swe-agent", MINI | {"messages": MINI["messages"][:2]}, "no_steps"),
        ("mini-swe-agent", MINI | {"messages": [said("user", "\ud800"), *MINI["messages"][2:]]}, "malformed"),
        ("swe-agent", {"trajectory": 3}, "malformed"),
        ("swe-agent", {"trajectory": [{"action": "ls", "observation": "a.py"}]}, "no_task"),
        ("atif", {"schema_version": "ATIF-v1.7", "steps": []}, "malformed"),
        ("openhands", {"history": [1]}, "malformed"),
    ],
)
def test_what_cannot_be_used_is_dropped_with_its_reason(name, values, reason):
    assert list(FORMATS[name].convert(row(values), ImportOptions())) == [Drop("folder/file.jsonl, line 3", reason)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<returncode>0</returncode>\n<output>\nan </output> inside\n</output>", "an </output> inside"),
        ("<returncode>0</returncode>\n<output>\n</output>", ""),
        ("<returncode>1</returncode>\n<warning>\nLess!\n</warning><output_head>\na\n</output_head>\n<elided_chars>\n"
         "432 characters elided\n</elided_chars>\n<output_tail>\nb\n</output_tail>",
         "[returncode 1]\na\n[432 characters left out]\nb"),
        ("The last command <command>ls</command> timed out and has been killed.\nThe output of the command was:\n"
         " <output>\npart\n</output>\nPlease try another", "[timed out]\npart"),
        ("OBSERVATION:\r\nx\r\n", "x"),
        ("EXECUTION RESULT of [execute_bash]:\nx", "x"),
        ("price: 5 $", "price: 5 $"),
    ],
)  # fmt: skip
def test_answers_lose_the_scaffold_s_wrapping_and_nothing_else(text, kept):
    assert observations.clean(text) == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Please solve this issue: It fails.\n\nYou can execute bash commands and edit files", "It fails."),
        ("<issue_description>\na\r\nb\n</issue_description>", "a\nb"),
        ("Make it faster.", "Make it faster."),
        ("<task></task>", ""),
    ],
)
def test_the_task_is_found_in_the_first_message(text, kept):
    assert task.task_of(text) == kept


def test_thoughts_lose_their_label_only():
    label = trajectory.LABEL
    assert [label.sub("", text) for text in ("THOUGHT: a", "DISCUSSION\na", "Thoughts on a", "Discussion of a")] == [
        "a",
        "a",
        "Thoughts on a",
        "Discussion of a",
    ]
