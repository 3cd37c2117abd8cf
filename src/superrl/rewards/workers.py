"""A pool of worker processes for work that may hang: started when first needed, reused, ended past a time limit.

Plain `subprocess` and pipes instead of `multiprocessing`: no fork of a process that holds torch and a device, no second
import of the user's main script, and it works off the main thread. Verdicts do not depend on which worker gave them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal
from weakref import finalize

from superrl.errors import RunError
from superrl.parallel import neighbours

START_LIMIT = 120.0
PATIENCE = 4.0
"""How many times its limit of processor time a worker gets by the clock: a busy machine must not change a verdict."""

REQUESTS_PER_WORKER = 8
OUT_OF_TIME = None if sys.platform == "win32" else -signal.SIGPROF
BOOTSTRAP = "import sys; sys.path = {path!r}; from runpy import run_path; run_path({script!r}, run_name='__main__')"


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's answer, or why there is none: it took too long, or it died twice over the same request."""

    value: Any
    status: Literal["ok", "timeout", "crash"] = "ok"


class Worker:
    """One process. `ask` returns None when the process has died, for whatever reason, and is of no more use."""

    def __init__(self, script: Path) -> None:
        self.timed_out = False
        code = BOOTSTRAP.format(path=sys.path, script=str(script))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            process_group=0,  # Ctrl-C in the terminal is for the run, which saves and then ends its workers
        )
        if self._exchange(None, START_LIMIT) != "ready":
            self.close()
            raise RunError(f"the worker process {script.name} did not start: exit status {self.process.returncode}")

    def ask(self, request: Mapping[str, Any], limit: float) -> Reply | None:
        """The reply; a time-out when the limit passed (the process is then dead); None when it died of something else.

        The worker limits its own processor time, and dies of SIGPROF; the clock here is for one that sleeps.
        """
        value = self._exchange({**request, "limit": limit}, PATIENCE * limit)
        if value is not None:
            return Reply(value)
        self.close()
        return Reply(None, "timeout") if self.timed_out or self.process.returncode == OUT_OF_TIME else None

    def _exchange(self, request: Any, limit: float) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.timed_out = False
        killer = threading.Timer(limit, self._kill_late)
        killer.daemon = True
        killer.start()
        try:
            if request is not None:
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            return None
        finally:
            killer.cancel()
        return json.loads(line) if line.endswith("\n") else None

    def _kill_late(self) -> None:
        self.timed_out = True
        self.process.kill()

    def close(self) -> None:
        """Kills the process, if it is still there, and closes its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # what was still to be written has no reader any more


class Pool:
    """Asks many requests of a few workers; replies come in the order of the requests."""

    def __init__(self, script: Path, processes: int | None = None) -> None:
        self.script = script
        self.processes = processes or max(1, min(8, (os.cpu_count() or 1) // neighbours()))
        self.idle: list[Worker] = []
        self._lock = threading.Lock()
        self._finalizer = finalize(self, close_all, self.idle)

    def ask(self, requests: Sequence[Mapping[str, Any]], limit: float) -> list[Reply]:
        """One reply a request. Calls from several threads take turns."""
        if not requests:
            return []
        replies: list[Reply | None] = [None] * len(requests)
        waiting: SimpleQueue[int] = SimpleQueue()
        for index in range(len(requests)):
            waiting.put(index)
        stop = threading.Event()

        def drain(worker: Worker | None) -> None:
            try:
                while not stop.is_set():
                    index = waiting.get_nowait()
                    worker, replies[index] = self._ask_one(worker, requests[index], limit)
            except Empty:
                pass
            finally:
                if worker is not None:
                    self.idle.append(worker)

        with self._lock:
            count = min(self.processes, 1 + len(requests) // REQUESTS_PER_WORKER)
            workers = [self.idle.pop() if self.idle else None for _ in range(count)]
            with ThreadPoolExecutor(count, thread_name_prefix="reward") as threads:
                try:
                    list(threads.map(drain, workers))
                finally:
                    stop.set()
        return [reply if reply is not None else Reply(None, "crash") for reply in replies]

    def _ask_one(self, worker: Worker | None, request: Mapping[str, Any], limit: float) -> tuple[Worker | None, Reply]:
        """A worker that died by itself (killed from outside, out of memory) is replaced and asked once more."""
        for _ in range(2):
            worker = worker or Worker(self.script)
            reply = worker.ask(request, limit)
            if reply is None:
                worker = None
                continue
            return (worker if reply.status == "ok" else None), reply
        return None, Reply(None, "crash")

    def close(self) -> None:
        """Ends the workers; the next `ask` starts new ones."""
        with self._lock:
            close_all(self.idle)


def close_all(workers: list[Worker]) -> None:
    """Ends and forgets them."""
    while workers:
        workers.pop().close()
