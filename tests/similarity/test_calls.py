"""One action in many wrappers is one call; and any text at all is read as something."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.similarity import Call, parse_calls, render_call

VIEW = Call("view", {"path": "a.py", "lines": [1, 20]})
DOCUMENT = """cat > x.md << 'EOF'
# T
```bash
pip install x
```
<tool_call>
{"name": "a"}
</tool_call>
<function=f>
EOF
python x.py"""

TABLE = {
    "bare": ("ls -l", [Call("bash", {"command": "ls -l"})]),
    "blank": (" \n", []),
    "json": ('{"name": "view", "arguments": {"path": "a.py", "lines": [1, 20]}}', [VIEW]),
    "a list": ('[{"name": "a", "arguments": {}}, {"name": "b"}]', [Call("a"), Call("b")]),
    "openai": (
        '{"tool_calls": [{"id": "1", "type": "function", "function": {"name": "view", "arguments": '
        '"{\\"path\\": \\"a.py\\", \\"lines\\": [1, 20]}"}}]}',
        [VIEW],
    ),
    "atif": ('{"function_name": "view", "arguments": {"path": "a.py", "lines": [1, 20]}}', [VIEW]),
    "tags": ('<tool_call>\n{"name": "a"}\n</tool_call>\n<tool_call>{"name": "b"}</tool_call>', [Call("a"), Call("b")]),
    "tags that never close": ('I look.\n<tool_call>{"name": "a"}', [Call("a")]),
    "tags inside a string": (
        '<tool_call>{"name": "a", "arguments": {"x": "</tool_call>"}}',
        [Call("a", {"x": "</tool_call>"})],
    ),
    "tags around xml": (
        "<tool_call>\n<function=a>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>",
        [Call("a", {"x": "1"})],
    ),
    "xml": (
        "So:\n<function=edit>\n<parameter=path>a.py</parameter>\n<parameter=new>\n  x = 1\n\n</parameter></function>",
        [Call("edit", {"path": "a.py", "new": "  x = 1\n"})],
    ),
    "xml without arguments": ("<function=submit></function>", [Call("submit")]),
    "fence": ("I look.\n```bash\nls -l\n```\nThat is all.", [Call("bash", {"command": "ls -l"})]),
    "the last fence": ("```sh\nls\n```\nor\n```\npwd\n```", [Call("bash", {"command": "pwd"})]),
    "a fence that never closes": ("```bash\nls -l", [Call("bash", {"command": "ls -l"})]),
    "a fence with json": ('```json\n{"name": "a"}\n```', [Call("a")]),
    "another language": ("```python\nprint(1)\n```", [Call("python", {"code": "print(1)"})]),
    "an empty fence": ("```bash\n```", [Call("bash", {"command": "```bash\n```"})]),
    "json that is no call": ('{"path": "a.py"}', [Call("bash", {"command": '{"path": "a.py"}'})]),
    "broken json": ('{"name": "view", "arg', [Call("bash", {"command": '{"name": "view", "arg'})]),
    "arguments that are no object": ('{"name": "a", "arguments": "x"}', [Call("a", {"": "x"})]),
    "a tag in a command": ('grep -rn "<tool_call>" src', [Call("bash", {"command": 'grep -rn "<tool_call>" src'})]),
    "a document": (DOCUMENT, [Call("bash", {"command": DOCUMENT})]),
    "a document in a fence": (f"So:\n```bash\n{DOCUMENT}\n```", [Call("bash", {"command": DOCUMENT})]),
}
WRAPPERS = {
    "json": lambda c: json.dumps({"name": "bash", "arguments": {"command": c}}),
    "tags": lambda c: f"<tool_call>\n{json.dumps({'name': 'bash', 'arguments': {'command': c}})}\n</tool_call>",
    "xml": lambda c: f"<function=bash>\n<parameter=command>{c}</parameter>\n</function>",
    "fence": lambda c: f"```bash\n{c}\n```",
    "prose and fence": lambda c: f"Let me look.\n\n```bash\n{c}\n```",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PIECES = [
    *("<tool_call>", "</tool_call>", "<function=a>", "</function>", "<parameter=x>", "</parameter>", '"name": "a"'),
    *("```bash\n", "\n```", "```", "<<EOF", "\nEOF\n", " && ls", "NaN", "{", "}", "[", "]", "\\", "'", '"', "\n", "\0"),
    "\ud800",
]
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join)


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    text, calls = TABLE[name]
    assert parse_calls(text) == calls


@pytest.mark.parametrize(
    "command", ["ls", "cd /x && python -c 'print(1)'", "sed -i 's/a/b/' x.py | tail -1", DOCUMENT, "echo '{'"]
)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_changes_nothing(wrapper, command):
    assert parse_calls(WRAPPERS[wrapper](command)) == parse_calls(command) == [Call("bash", {"command": command})]


@given(HOSTILE)
def test_any_text_is_read(text):
    calls = parse_calls(text)
    assert bool(calls) == bool(text.strip())
    assert parse_calls(text) == calls


@given(st.text(min_size=1, max_size=8), st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_a_call_is_read_back_from_its_text(name, arguments):
    call = Call(name, arguments)
    assert parse_calls(render_call(call)) == [call]


def test_a_bare_command_stays_one_unless_it_would_be_read_otherwise():
    assert render_call(Call("bash", {"command": "ls -l"})) == "ls -l"
    for command in ('{"name": "a"}', "```bash\nls\n```", " ls"):
        text = render_call(Call("bash", {"command": command}))
        assert json.loads(text) == {"name": "bash", "arguments": {"command": command}}


@pytest.mark.parametrize(
    "text", ["[" * 10_000, '{"a":' * 5_000, "<<a " * 3_000, "<parameter=x>" * 1_000, "```a\n" * 2_000]
)
def test_long_degenerate_text_is_soon_read(text):
    assert parse_calls(text)
    assert parse_calls("<function=f>" + text)
    assert parse_calls("<tool_call>" * 1_000 + text)
