"""The process that runs math-verify: one JSON request a line on stdin, one JSON reply a line on stdout.

It is run as a plain file, so it imports neither superrl nor torch, starts in about a second, and can be killed at any
time. Sympy may take for ever, or gigabytes, over an expression a model wrote: time and memory are limited.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from typing import Any

MEMORY = 4 * 2**30


def readable(parse: Any, gold: str) -> bool:
    """Whether the parser makes an expression of the gold answer, and not merely a string."""
    return any(not isinstance(form, str) for form in parse(boxed(gold), parsing_timeout=None))


def equal(parse: Any, verify: Any, gold: str, prediction: str, bare: bool) -> bool:
    """Whether the two mean the same; a bare prediction is read as LaTeX, a sentence is searched for its answer."""
    golds = parse(boxed(gold), parsing_timeout=None)
    predictions = parse(boxed(prediction) if bare else prediction, parsing_timeout=None)
    return bool(golds and predictions and verify(golds, predictions, timeout_seconds=None))


def boxed(text: str) -> str:
    """The form in which the parser takes the whole text as one expression."""
    return "\\boxed{" + text + "}"


def answer(parse: Any, verify: Any, request: dict[str, Any]) -> bool:
    """One verdict. Whatever sympy raises over strange text means: not readable, not equal."""
    try:
        if "prediction" not in request:
            return readable(parse, request["gold"])
        return equal(parse, verify, request["gold"], request["prediction"], request["bare"])
    except (Exception, RecursionError, MemoryError):
        return False


def cap_memory() -> None:
    """Out of memory is an exception here, and not the end of the machine."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))


def end_after(cpu_seconds: float) -> None:
    """The kernel ends this process after so much work, even inside one endless multiplication; 0 calls it off."""
    if sys.platform != "win32":
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def serve() -> None:
    """Says `"ready"`, then answers until stdin ends. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # nothing that sympy prints gets between the replies

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    cap_memory()
    print('"ready"', file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        end_after(request["limit"])
        verdict = answer(parse, verify, request)
        end_after(0)
        print(json.dumps(verdict), file=replies, flush=True)


if __name__ == "__main__":
    serve()
