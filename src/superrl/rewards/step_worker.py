"""The process that compares actions: one JSON request a line on stdin, one JSON reply a line on stdout.

It is run as a plain file and imports of superrl only what compares texts: no torch, so that it starts in a moment. The
cost of a pair is bounded there, so no clock ends it. Replies do not depend on which process gave them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from superrl.similarity import measure


def answer(request: dict[str, Any]) -> list[list[Any]]:
    """What was measured of every pair of the request, in order."""
    settings = {"kind": request["kind"], "autojunk": request["autojunk"]}
    return [list(measure(action=a, expert=e, agent=agent, **settings)) for a, e, agent in request["pairs"]]


def serve() -> None:
    """Says `"ready"`, then answers until stdin ends. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # nothing that is printed gets between the replies
    print('"ready"', file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    serve()
