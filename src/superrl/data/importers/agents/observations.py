"""What the environment answered, without the scaffold's wrapping.

The rule: of mini-swe-agent's answers the output stays without its tags; a first line `[returncode 1]` says so if the
command failed, and `[timed out]` if it was killed; output that was already cut stays cut, with `[n characters left
out]` in the gap, and the advice around it goes. Of SWE-agent's answers the heading `OBSERVATION:` and the prompt
`bash-$` go, its lines about the open file and the current directory stay. Line ends become `\\n`.
Nothing is shortened here.
"""

from __future__ import annotations

import re

RETURNCODE = re.compile(r"\A\s*(?:<exception>.*?</exception>\s*)?<returncode>\s*(-?\d+)\s*</returncode>", re.DOTALL)
TIMED_OUT = re.compile(r"\AThe last command <command>.*?</command> timed out", re.DOTALL)
EXIT_CODE = re.compile(r"\[exit code (-?\d+)\]\s*\Z")
LEFT_OUT = re.compile(r"\s*(\d+)")
HEADING = re.compile(r"\A\s*(?:OBSERVATION|Observation):[ \t]*\n?")
SHELL_PROMPT = re.compile(r"\n?(?:bash-)?\$\s*\Z")
EXECUTED = re.compile(r"\AEXECUTION RESULT of \[[^\]\n]*\]:\n")


def clean(text: str) -> str:
    """An answer by the rule above; what has none of these marks comes back as it is, but for its line ends.

    >>> clean("<returncode>1</returncode>\\n<output>\\nno such file\\n</output>")
    '[returncode 1]\\nno such file'
    """
    text = text.replace("\r\n", "\n")
    if code := RETURNCODE.match(text):
        return with_code(_output(text[code.end() :]), int(code[1]))
    if TIMED_OUT.match(text):
        return f"[timed out]\n{_output(text)}".rstrip("\n")
    if code := EXIT_CODE.search(text):
        return with_code(text[: code.start()].strip("\n"), int(code[1]))
    text = EXECUTED.sub("", HEADING.sub("", text, count=1), count=1)
    return SHELL_PROMPT.sub("", text, count=1) if "\n(Current directory: " in text else text.rstrip("\n")


def with_code(output: str, code: int) -> str:
    """An output, and before it the exit status of a command that failed."""
    return output if code == 0 else f"[returncode {code}]\n{output}".rstrip("\n")


def _output(text: str) -> str:
    """What stands between mini-swe-agent's tags; an output may hold such tags, so the last closing one counts."""
    head, cut, rest = text.partition("<output_head>")[2].partition("</output_head>")
    if cut:
        left_out = LEFT_OUT.match(rest.partition("<elided_chars>")[2])
        tail = rest.partition("<output_tail>")[2].rpartition("</output_tail>")[0]
        gap = f"[{left_out[1] if left_out else 'some'} characters left out]"
        return "\n".join((head.strip("\n"), gap, tail.strip("\n")))
    _, opened, rest = text.partition("<output>")
    if not opened:
        return text.strip("\n")
    body, closed, _ = rest.rpartition("</output>")
    return (body if closed else rest).strip("\n")
