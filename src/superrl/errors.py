"""The two ways superrl stops: the user's input is wrong (exit 2), or the run failed (exit 1).

Every message is one sentence that says what is wrong, where, and how to mend it. No traceback is shown for a
`UserError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something in the recipe, the data or the reward that its author can mend; exit status 2."""

    exit_code = 2


class RunError(RuntimeError):
    """A failure while running that no recipe causes: full disk, lost checkpoint, diverged weights; exit status 1."""

    exit_code = 1


class Diverged(RunError):
    """The run's own weights or gradients are no longer finite: it would end so again."""


class Lost(RunError):
    """Another process of the run has died or does not answer."""


class Elsewhere(Exception):
    """Another process of the run failed, and process 0 says how: this one leaves with the same status, silently."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run failed")
        self.exit_code = exit_code


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; the loop saves and leaves with 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.exit_code = 128 + signal_number


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` when a known name is close, else the list of known names."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def one_line(value: object, longest: int = 160) -> str:
    """What an error or a value says, on one line and not too long: a message of ours is one sentence."""
    text = " ".join(str(value).split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
