"""How a command ends that did not end well: one sentence for a person, an exit status, and where a traceback goes.

Exit status: 2 the input is wrong, 1 a failure, 130 / 143 interrupted. Only a bug leaves a traceback, in `error.log` of
the run folder.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, cast

import typer

from superrl.errors import Elsewhere, Interrupted, RunError, UserError
from superrl.parallel import rank

UsageError = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""What the parser raises for an unknown command or option; its class lives in click or in typer, by version."""

run_folder: list[Path] = []
"""The run folder once a command has one: where the traceback of a bug goes."""


def explain(error: BaseException) -> tuple[str, int]:
    """What to tell a person about an exception, and the exit status. A bug's traceback goes to the run's error.log."""
    if isinstance(error, UserError | RunError):
        again = _again() if isinstance(error, RunError) and _is_comparison() else None
        return f"{error}; continue with: {again}" if again else str(error), error.exit_code
    if isinstance(error, Elsewhere):
        return str(error), error.exit_code
    if isinstance(error, Interrupted | KeyboardInterrupt | typer.Abort):
        return _interrupted(error)
    if isinstance(error, UsageError):
        message = cast("Any", error).format_message()
        return f"{message[0].lower()}{message[1:].rstrip('.')}; see superrl --help", 2
    if "No space left on device" in str(error):
        return "the disk is full: free some space, then continue with --resume", 1
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "DefaultCPUAllocator" in str(error):
        return "out of memory: lower max_tokens_per_pack, prompts_per_step or max_new_tokens, or the model's size", 1
    return _bug(error)


def told_elsewhere(error: BaseException) -> bool:
    """Whether the first process of a run on several says it: what the input's author can mend is found by all."""
    return rank() > 0 and isinstance(error, UserError | UsageError | Elsewhere | Interrupted | KeyboardInterrupt)


def _interrupted(error: BaseException) -> tuple[str, int]:
    status = error.exit_code if isinstance(error, Interrupted) else 130
    if not isinstance(error, Interrupted) or not run_folder:
        return "interrupted", status
    return f"interrupted; continue with: {_again()}", status


def _is_comparison() -> bool:
    return bool(run_folder) and (run_folder[0] / "comparison.yaml").is_file()


def _again() -> str:
    folder = run_folder[0]
    if _is_comparison():
        return f"superrl compare {folder}/comparison.yaml --out {folder}"
    return f"superrl train {folder}/config.yaml --out {folder} --resume"


def _bug(error: BaseException) -> tuple[str, int]:
    """An exception nobody planned: the traceback is kept where the report of a bug needs it."""
    trace = "".join(traceback.format_exception(error))
    sentence = f"unexpected {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    if run_folder and run_folder[0].is_dir():
        log = run_folder[0] / "error.log"
        try:
            log.write_text(trace, encoding="utf-8")
        except OSError:
            return f"{sentence}\n{trace}", 1
        return f"{sentence} (traceback in {log})", 1
    return f"{sentence}\n{trace}", 1
