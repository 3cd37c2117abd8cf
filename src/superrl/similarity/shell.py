"""Shell commands as what they run: simple commands in order, and the files they name. Nothing is run or expanded.

A text is split at `;`, `|`, `&`, `&&`, `||` and line ends outside quotes, parentheses and here-documents. What comes
first and only prepares (`cd`, `export`, `source`, ...) is kept apart: two commands are not alike for having the same
`cd /testbed &&` before them. Leaves out loops and conditions (their words are commands like others).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from superrl.similarity.calls import document_end
from superrl.steps.commands import PREPARES, program

MOST = 200
"""Simple commands after which the rest of a text counts as one."""

_TOKEN = re.compile(
    r"""(?P<comment>(?<![^\s;&|(])\#[^\n]*)
      | (?P<text>'[^']*' | "(?:[^"\\]|\\.)*" | \\. | [0-9]*>&[0-9-]* | <&[0-9-]* | &>>? | [^\s'"\\<>;|&()`]+ | [^\S\n]+)
      | (?P<document><<-?[^\S\n]*(?P<quote>['"]?)(?P<delimiter>\w+)(?P=quote))
      | (?P<open>[(`]) | (?P<close>\))
      | (?P<end>\n|&&|\|\||\|&|;;|[;|&])""",
    re.VERBOSE | re.DOTALL,
)
_FIRST_IS_PATTERN = {"sed", "sed -i", "grep", "egrep", "fgrep", "rg", "ag", "awk", "perl"}
_FILE = re.compile(
    r"[\w.~+@/-]*\.(?:py|pyx|pyi|txt|md|rst|toml|cfg|ini|conf|json|ya?ml|[jt]sx?|c|h|cc|cpp|hpp|java|go|rs|rb|php|sh|html?|"
    r"css|xml|csv|sql|ipynb|lock|diff|patch|log|po|tex|in|env)"
)
_WORD = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|([^\s'"<>]+)""")


class Simple(NamedTuple):
    """One simple command: its program as tables name it, and the text of its arguments."""

    program: str
    arguments: str
    text: str


class Script(NamedTuple):
    """What a command prepares, as text, and what it runs."""

    setting: str
    commands: tuple[Simple, ...]

    @property
    def main(self) -> str:
        """The program that it is about: the first that does not only prepare."""
        return self.commands[0].program if self.commands else ""

    @property
    def text(self) -> str:
        """What it runs, a simple command a line."""
        return "\n".join(simple.text for simple in self.commands)


def read_script(command: str) -> Script:
    """The simple commands of a shell command; one that only prepares is what it runs.

    >>> script = read_script("cd /testbed && python -m pytest -x | tail -5")
    >>> script.setting, [(simple.program, simple.arguments) for simple in script.commands]
    ('cd /testbed', [('pytest', '-x'), ('tail', '-5')])
    """
    every = [_simple(text) for text in split_commands(command)]
    first = next((i for i, simple in enumerate(every) if simple.program not in PREPARES), 0)
    return Script("; ".join(simple.text for simple in every[:first]), tuple(every[first:]))


def split_commands(command: str) -> list[str]:
    """The texts of the simple commands, in order; a here-document stays with the command that reads it."""
    found: list[str] = []
    current: list[str] = []
    documents: list[str] = []
    at = depth = 0
    while at < len(command) and len(found) < MOST:
        token = _TOKEN.match(command, at)
        if token is None:  # a quote that never closes, a lone sign
            current.append(command[at])
            at += 1
            continue
        kind, value, at = token.lastgroup, token.group(), token.end()
        if token["delimiter"] is not None:
            documents.append(token["delimiter"])
            current.append(value)
            continue
        if value == "\n" and documents:
            start = at
            for delimiter in documents:
                at = document_end(command, at - 1, delimiter) or len(command)
            current.append("\n" + command[start:at])
            documents = []
        if kind == "end" and depth == 0:
            found.append("".join(current).strip())
            current = []
        elif kind != "comment":
            depth = max(0, depth + (value == "(") - (value == ")"))
            current.append(value)
    found.append("".join([*current, command[at:]]).strip())
    return [text for text in found if text]


def files(script: Script) -> tuple[str, ...]:
    """The files that a script names, in order: words that end like a file's name. Not what stands in here-documents,
    nor the pattern or script of grep, sed and their like.

    >>> files(read_script("sed -i 's/a.py/b.py/' ./src/x.py && cat > out.txt"))
    ('src/x.py', 'out.txt')
    """
    found: list[str] = []
    for simple in script.commands:
        head = simple.arguments.partition("\n")[0]
        words = [single or double or bare for single, double, bare in _WORD.findall(head)]
        if simple.program in _FIRST_IS_PATTERN:
            pattern = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
            words = words[:pattern] + words[pattern + 1 :]
        found += [word.removeprefix("./") for word in words if _FILE.fullmatch(word)]
    return tuple(found)


def _simple(text: str) -> Simple:
    name = program(text)
    stem = name.partition(" ")[0]
    head = re.search(rf"(?:^|[\s/]){re.escape(stem)}[\w.]*(?=\s|$)", text) if stem else None
    return Simple(name, text[head.end() :].strip() if head else text, text)
