"""One small run of an agent in every format that is imported, most of them with a turn that did nothing."""

import json

from superrl.data.files import Row

ISSUE = (
    "<pr_description>\nConsider the following PR description:\nIt fails.\n</pr_description>\n"
    "<instructions>x</instructions>"
)


def said(role, content, **more):
    """A message."""
    return {"role": role, "content": content, **more}


def called(name, number=1, /, **arguments):
    """A tool call as OpenAI's interface has it."""
    return {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def answer(output, code=0):
    """An answer of mini-swe-agent."""
    return said("user", f"<returncode>{code}</returncode>\n<output>\n{output}\n</output>")


MINI = {
    "instance_id": "django__django-7",
    "resolved": True,
    "model": "m",
    "scaffold": "mini-swe-agent 1.15.0",
    "messages": [
        said("system", "Answer with ONE command."),
        said("user", ISSUE),
        said("assistant", "THOUGHT: Look.\n```python\nx = 1\n```\nso:\n\n```bash\ncd /testbed && grep -n x a.py\n```"),
        answer("1:x"),
        said("assistant", "THOUGHT: Two.\n\n```bash\nls\n```\nor\n```bash\npwd\n```"),
        said("user", "Please always provide EXACTLY ONE action in triple backticks, found 2 actions."),
        said("assistant", "THOUGHT: Edit.\n\n```bash\nsed -i 's/x/y/' a.py\n```\n"),
        answer("no such file", 4),
        said("assistant", "THOUGHT: Done.\n\n```bash\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git diff\n```"),
        said("user", "diff --git"),
    ],
}
MINI_2 = {
    "info": {"mini_version": "2.4.6", "exit_status": "Submitted", "config": {"model": {"model_name": "m"}}},
    "trajectory_format": "mini-swe-agent-1.1",
    "messages": [
        said("system", "You have a shell."),
        said("user", ISSUE),
        said("assistant", "Look.", tool_calls=[called("bash", command="ls")]),
        said("tool", "a.py\n[exit code 0]", tool_call_id="c1"),
        said("assistant", None, tool_calls=[called("bash", command="cat a.py"), called("bash", 2, command="pwd")]),
        said("tool", "x = 1\n[exit code 0]"),
        said("tool", "sh: pwd: not found\n[exit code 127]"),
        said("assistant", "Oops"),
        said("user", "Tool call error"),
        said("assistant", "", tool_calls=[called("bash", command="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")]),
        said("exit", "diff"),
    ],
}
SWE_AGENT = {
    "history": [
        said("system", "SETTING", agent="main", message_type="system_prompt"),
        said("user", "--- DEMONSTRATION ---\nISSUE:\nold\nINSTRUCTIONS:", agent="main"),
        said("assistant", "Old.", agent="main", action="ls", is_demo=True),
        said("user", "ISSUE:\nIt fails.\n\n\nINSTRUCTIONS:\nGo.", agent="main"),
        said("assistant", "Look.", agent="main", thought="Look.", action="find_file a.py",
             tool_calls=[called("find_file", name="a.py")]),
        said("tool", "Found\r\n(Open file: n/a)\n(Current directory: /r)\nbash-$", agent="main"),
        said("assistant", "Run.", agent="main", thought="Run.", tool_calls=[called("bash", command="ls")]),
        said("tool", "a.py", agent="main"),
        said("assistant", "Hm.", agent="main", thought="Hm.", action=""),
        said("assistant", "Done.", agent="main", thought="Done.", tool_calls=[called("submit")]),
        said("tool", "diff", agent="main"),
    ],
    "info": {"exit_status": "submitted"},
}  # fmt: skip
SWE_AGENT_TEXT = {
    "trajectory": [
        {"thought": "DISCUSSION\nLook.", "action": "find_file a.py\n", "observation": "Found"},
        {"thought": "Edit.", "action": "edit 1:1\ny\nend_of_edit", "observation": "Updated"},
        {"thought": "Done.", "action": "submit", "observation": "diff"},
    ],
    "replay_config": json.dumps({"problem_statement": {"text": "It fails.", "id": "a__b-1"}}),
}
XML = {
    "instance_id": "pandas-dev__pandas.95280573.pr_1",
    "messages": [
        said("system", "functions"),
        said("user", f"<uploaded_files>\n/testbed\n</uploaded_files>\n{ISSUE}\nCan you help?"),
        said("assistant", "Look.\n\n<function=str_replace_editor>\n<parameter=command>view</parameter>\n"
             "<parameter=path>/testbed/a.py</parameter>\n<parameter=view_range>[1, 5]</parameter>\n</function>"),
        said("user", "OBSERVATION:\n1\tx"),
        said("assistant", "Let me think."),
        said("user", "Your output could not be parsed."),
        said("assistant", "Write.\n<function=str_replace_editor>\n<parameter=command>create</parameter>\n"
             "<parameter=file_text>\n[1]\n</parameter>\n</function>"),
        said("user", "OBSERVATION:\nok"),
        said("assistant", "Done.\n<function=submit>\n</function>"),
    ],
}  # fmt: skip
TICKS = {
    "messages": json.dumps([
        said("system", "SETTING"),
        said("user", "ISSUE:\nIt fails.\n\nINSTRUCTIONS:\nGo."),
        said("assistant", "Like this:\n```python\nx\n```\nLook.\n\n```\nfind_file a.py\n```\n"),
        said("user", "OBSERVATION:\nFound\n(Open file: n/a)\n(Current directory: /r)\nbash-$"),
        said("assistant", "Done.\n```\nsubmit\n```"),
    ]),
    "resolved": True,
    "traj_id": "t.1",
}  # fmt: skip
OPENAI = {
    "messages": [
        said("system", "You book flights."),
        said("user", "Book one."),
        said("assistant", None, reasoning_content="Two at once.",
             tool_calls=[called("find", to="A"), called("seats", 2, n=3)]),
        said("tool", "found", tool_call_id="c1"),
        said("tool", [{"type": "text", "text": "free"}], tool_call_id="c2"),
        said("assistant", "Which one?"),
        said("user", "The first."),
        said("assistant", "Booking.\n<tool_call>\n{\"name\": \"book\", \"arguments\": {\"n\": 1}}\n</tool_call>"),
        said("tool", "ok"),
        said("system", "Be quick."),
        said("assistant", "All done."),
    ],
}  # fmt: skip
ATIF = {
    "schema_version": "ATIF-v1.7",
    "agent": {"name": "a", "version": "1.0", "model_name": "m"},
    "steps": [
        {"step_id": 1, "source": "system", "message": "Be good."},
        {"step_id": 2, "source": "user", "message": [{"type": "text", "text": "Make hello.txt."}]},
        {"step_id": 3, "source": "agent", "message": "Old.", "is_copied_context": True,
         "tool_calls": [{"tool_call_id": "0", "function_name": "write", "arguments": {}}]},
        {"step_id": 4, "source": "agent", "message": "Writing.", "reasoning_content": "Easy.",
         "tool_calls": [
             {"tool_call_id": "1", "function_name": "write", "arguments": {"path": "hello.txt", "text": "hé"}}],
         "observation": {"results": [{"source_call_id": "1", "content": "written"}, {"content": None}]}},
        {"step_id": 5, "source": "agent", "message": "It is there."},
    ],
}  # fmt: skip


def event(number, action=None, *, call=None, response="", thought="", cause=None, observation=None, content="", **more):
    """An event of OpenHands: an action with the call it came from, or an observation."""
    made = {"id": number, "source": "agent", "message": "", **more}
    if action is not None:
        made |= {"action": action, "args": {"thought": thought, "command": "bookkeeping"}}
    else:
        made |= {"observation": observation, "content": content} | ({} if cause is None else {"cause": cause})
    if call is not None:
        message = {"tool_calls": [call]}
        made["tool_call_metadata"] = {
            "function_name": call["function"]["name"],
            "tool_call_id": call["id"],
            "model_response": {"id": response, "choices": [{"message": message}]},
        }
    return made


OPENHANDS = {
    "instance_id": "a__b-1",
    "instruction": f"<uploaded_files>\n/workspace/b\n</uploaded_files>\n{ISSUE}",
    "instance": {"repo": "a/b"},
    "metadata": {"llm_config": {"model": "m"}},
    "error": None,
    "history": [
        event(0, "system"),
        {"id": 1, "source": "user", "action": "message", "args": {"content": "hello"}},
        {"id": 2, "source": "user", "action": "recall", "args": {}},
        {"id": 3, "source": "environment", "observation": "recall", "content": "workspace", "cause": 2},
        event(4, "run", call=called("execute_bash", 1, command="ls"), response="r1", thought="Look."),
        event(5, observation="run", content="a.c", cause=4, extras={"metadata": {"exit_code": 0}}),
        event(6, "think", call=called("think", 2, thought="Hm."), response="r2", thought="Hm."),
        event(7, observation="think", content="logged", cause=6),
        event(8, "run", call=called("execute_bash", 3, command="make"), response="r3", thought="Both."),
        event(9, observation="run", content="failed", cause=8, extras={"metadata": {"exit_code": 2}}),
        event(10, "read", call=called("editor", 4, path="a.c"), response="r3", thought="Both."),
        event(11, observation="read", content="int x;", cause=10),
        event(12, observation="error", content="Parameter 'command' is expected."),
        event(13, "finish", call=called("finish", 5, message="done"), response="r4"),
    ],
}
OPENHANDS_OLD = {
    "instance_id": "a__b-1",
    "instruction": ISSUE,
    "history": [
        [
            {"id": 1, "source": "agent", "action": "run",
             "args": {"command": "ls", "thought": "Look.", "blocking": False}},
            {"id": 2, "source": "agent", "observation": "run",
             "content": "a.c", "cause": 1, "extras": {"exit_code": 1}},
        ]
    ],
}  # fmt: skip

ROWS = {
    "mini-swe-agent": MINI,
    "swe-agent": SWE_AGENT,
    "swe-smith-xml": XML,
    "swe-smith-ticks": TICKS,
    "openai-messages": OPENAI,
    "atif": ATIF,
    "openhands": OPENHANDS,
}


def damaged(values, path, junk):
    """`values` with what stands at the end of a path (numbers, modulo the length) exchanged for `junk`."""
    if not path or not isinstance(values, dict | list) or not values:
        return junk
    if isinstance(values, list):
        at = path[0] % len(values)
        return [*values[:at], damaged(values[at], path[1:], junk), *values[at + 1 :]]
    key = sorted(values)[path[0] % len(values)]
    return values | {key: damaged(values[key], path[1:], junk)}


def row(values, source="folder/file.jsonl", number=3):
    """A row as it is read from a file."""
    return Row(values, source, number)
