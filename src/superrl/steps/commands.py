"""Shell commands: which program one really runs, in a word that a table by tool can use.

The rule, applied to the text from its beginning, without running or expanding anything:

- what only prepares is passed over: `cd`, `export`, `set`, `source`, assignments, comments, `[` and `[[`, and the
  wrappers `sudo`, `env`, `time`, `timeout`, `nice`, `nohup`, `exec`, `command`; of `if`, `while` and `for` the first
  command inside counts;
- the first program left names the command, by its last path component: of a pipeline the first, of a list the first;
- the version goes (`python3.11` is `python`), `python -m pytest` is `pytest`, `bash -c '...'` is what stands inside;
- one program that does two jobs has two names: `sed -i` (edits) beside `sed`, `cat >` (writes, with or without a
  here-document) beside `cat`, likewise `echo >` and `printf >`, and `python -c` (program text in the command, also from
  a here-document) beside `python` (a script).

Leaves out: functions, aliases, what a variable holds, and everything after the first program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

LOOKED_AT = 4000
"""Characters of a command that are read: the program stands at its beginning."""
SUBMITS = ("COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT", "MINI_SWE_AGENT_FINAL_OUTPUT")
"""What mini-swe-agent's closing command echoes."""

PREPARES = {"cd", "pushd", "popd", "export", "unset", "set", "source", ".", "alias", "shopt", "ulimit", "umask",
            "[", "[[", "true", ":"}  # fmt: skip
HEADERS = {"for", "case", "select", "function"}
KEYWORDS = {"if", "while", "until", "do", "then", "else", "elif", "!", "{", "}", "done", "fi", "esac", "time"}
WRAPPERS = {"sudo", "env", "timeout", "nice", "nohup", "exec", "command", "stdbuf", "xvfb-run"}
TAKE_A_VALUE = {"-u", "-g", "-n", "-k", "-s"}
SHELLS = {"bash", "sh", "zsh", "dash"}
WRITES = {"cat", "echo", "printf"}

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
DURATION = re.compile(r"\d+(\.\d+)?[smhd]?")
TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r]|\\\n)+)
      | (?P<comment>\#[^\n]*)
      | (?P<redirect>\d*(?:<<<|<<-?|<>|>>|>\||&>>|&>|>&|<&|<|>))
      | (?P<end>&&|\|\||\|&|[;&|\n()])
      | (?P<word>(?:'[^']*' | "(?:[^"\\]|\\.)*" | \$\((?:[^()]|\([^()]*\))*\) | `[^`]*`
                  | \\. | [^\s;&|<>()'"\\] | ['"\\])+)""",
    re.VERBOSE | re.DOTALL,
)
QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)""", re.DOTALL)


class Simple(NamedTuple):
    """One simple command: its words without quotes, whether a file receives its output, whether it reads a document."""

    words: Sequence[str]
    writes: bool
    document: bool


def program(command: str) -> str:
    """The program that `command` runs, by the rule above; "" for an empty one.

    >>> program("cd /testbed && PYTHONPATH=. python3 -m pytest -x tests | tail -5")
    'pytest'
    >>> program("cat <<'EOF' > fix.py")
    'cat >'
    """
    prepared = ""
    for simple in _simple_commands(command[:LOOKED_AT]):
        words = _unwrapped(simple.words)
        if not words or not words[0] or words[0] in HEADERS:
            continue
        name = words[0].rpartition("/")[2] or words[0]
        if name in PREPARES:
            prepared = prepared or name
            continue
        return _named(name, words[1:], simple)
    return prepared


def _named(name: str, arguments: Sequence[str], simple: Simple) -> str:
    """The name of one program with these arguments."""
    if name == "echo" and any(word in SUBMITS for word in arguments):
        return "submit"
    if name in SHELLS:
        flag = next((i for i, word in enumerate(arguments) if re.fullmatch(r"-\w*c", word)), None)
        inside = program(arguments[flag + 1]) if flag is not None and flag + 1 < len(arguments) else ""
        return inside or name
    if re.fullmatch(r"(python|pypy)[\d.]*", name):
        return _python(arguments, simple.document)
    if name == "sed" and any(re.match(r"-[A-Za-z]*i|--in-place", word) for word in arguments):
        return "sed -i"
    if name in WRITES and simple.writes:
        return f"{name} >"
    return re.sub(r"(?<=^pip)[\d.]+$", "", name)


def _python(arguments: Sequence[str], document: bool) -> str:
    """`python`, `python -c`, or the module that `-m` runs."""
    rest = iter(arguments)
    for word in rest:
        if word == "-m":
            return next(rest, "python")
        if word in ("-c", "-"):
            return "python -c"
        if word in ("-X", "-W"):
            next(rest, None)
        elif not word.startswith("-"):
            return "python"
    return "python -c" if document else "python"


def _unwrapped(words: Sequence[str]) -> Sequence[str]:
    """The words from the program's name on: no assignments, keywords or wrappers before it."""
    at = 0
    wrapped = False
    while at < len(words):
        word = words[at]
        if word in WRAPPERS:
            wrapped = True
        elif wrapped and word in TAKE_A_VALUE:
            at += 1
        elif not (
            ASSIGNMENT.match(word)
            or word in KEYWORDS
            or (wrapped and (word.startswith("-") or DURATION.fullmatch(word)))
        ):
            break
        at += 1
    return words[at:]


def _simple_commands(text: str) -> Iterator[Simple]:
    """The simple commands of a text, in order and lazily; quotes that never close are ordinary characters."""
    words: list[str] = []
    writes = document = False
    redirect = ""
    for token in TOKEN.finditer(text):
        kind, value = token.lastgroup, token.group()
        if kind == "redirect":
            redirect = value
            document = document or value.startswith("<<")
        elif kind == "word" and redirect:
            to_file = redirect.lstrip("1&") in (">", ">>", ">|") and value != "/dev/null"
            writes, redirect = writes or to_file, ""
        elif kind == "word":
            words.append(QUOTED.sub(lambda found: found[1] or found[2] or found[3] or "", value))
        elif kind == "end":
            yield Simple(words, writes, document)
            words, writes, document, redirect = [], False, False, ""
    yield Simple(words, writes, document)
