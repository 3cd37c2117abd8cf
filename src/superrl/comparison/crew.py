"""Worker processes that do one task after another, can be asked to stop in the midst of one, and are never left behind.

One pipe to each worker carries all: a task there, what became of it back, and the wish to stop, which is a message or
the pipe's end, so that workers also stop when the process that started them is gone. Idle, they ignore Ctrl-C, which
a terminal sends to them as well. Plain processes and no `ProcessPoolExecutor`: that one hands out tasks after an
interruption, cannot say which task a worker died of, and ends the others by a second signal while they save.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from superrl.errors import Interrupted, RunError

T = TypeVar("T")
Stop = Callable[[], bool]
Work = Callable[[T, Stop], str]
"""What a worker does: a task, and a function that says whether to stop; it returns what to tell about it."""

POLL = 0.2
"""Seconds after which the waiting process looks whether a signal has arrived."""


@dataclass(slots=True)
class _Worker(Generic[T]):
    process: BaseProcess
    pipe: Connection
    task: T | None = None


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A task was left by a signal (as an exception it could not travel)."""

    number: int


class Crew(Generic[T]):
    """Up to `size` processes, started when needed; `check` is called while waiting and raises what ends the wait.

    `work` and `prepare` (called once in every new worker) are functions of a module, and tasks can be pickled. On
    leaving the block the workers are asked to stop and waited for; by SystemExit they are killed.
    """

    def __init__(
        self, work: Work[T], size: int, check: Callable[[], None], prepare: Callable[[], None] | None = None
    ) -> None:
        self._work, self._size, self._check, self._prepare = work, size, check, prepare
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker[T]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, SystemExit):
                for worker in self._workers:
                    _send(worker.pipe, None)
                for worker in self._workers:
                    worker.process.join()  # a second signal raises SystemExit here
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()

    def each(self, tasks: Sequence[T]) -> Iterator[tuple[T, str | Exception]]:
        """Do the tasks; each with what was told about it, or with the exception it ended by, in the order they end."""
        waiting = deque(tasks)
        while waiting or any(worker.task is not None for worker in self._workers):
            self._check()
            self._hand_out(waiting)
            at_work = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            for pipe in wait(list(at_work), POLL):
                worker = at_work[pipe]  # type: ignore[index]
                task, worker.task = worker.task, None
                assert task is not None
                yield task, self._outcome(worker)

    def _hand_out(self, waiting: deque[T]) -> None:
        idle = [worker for worker in self._workers if worker.task is None]
        while waiting and (idle or len(self._workers) < self._size):
            worker = idle.pop() if idle else self._start()
            worker.task = waiting.popleft()
            _send(worker.pipe, worker.task)  # of one that has died, the wait below hears at once

    def _start(self) -> _Worker[T]:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._work, self._prepare))
        with _deaf_to_the_terminal():
            process.start()
        there.close()
        worker: _Worker[T] = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def _outcome(self, worker: _Worker[T]) -> str | Exception:
        try:
            outcome = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._workers.remove(worker)
            worker.pipe.close()
            return RunError(f"its process ended by itself, {_ending(worker.process.exitcode)}")
        return Interrupted(outcome.number) if isinstance(outcome, _Stopped) else outcome


def _ending(status: int | None) -> str:
    if status == -9:
        return "killed (out of memory?)"
    return f"by signal {-status}" if status is not None and status < 0 else f"with exit status {status}"


@contextmanager
def _deaf_to_the_terminal() -> Iterator[None]:
    """Processes that are started in the block ignore Ctrl-C from their birth."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, work: Work[T], prepare: Callable[[], None] | None) -> None:
    """A worker's life: tasks until None comes or nobody is there any more."""
    if prepare is not None:
        prepare()
    while (task := _received(pipe)) is not None:
        outcome: str | Exception | _Stopped
        try:
            outcome = work(task, pipe.poll)
        except Interrupted as interrupted:
            outcome = _Stopped(interrupted.exit_code - 128)
        except Exception as error:  # whatever it is, the process that waits for it explains it
            outcome = _portable(error)
        if not _send(pipe, outcome):
            return


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _send(pipe: Connection, message: object) -> bool:
    """Whether somebody is there to receive it."""
    try:
        pipe.send(message)
    except OSError:
        return False
    return True


def _portable(error: Exception) -> Exception:
    """The exception with its traceback as a note; one that cannot travel as a RuntimeError of the same words."""
    note = "".join(traceback.format_exception(error))
    error.add_note(note)
    try:
        pickle.loads(pickle.dumps(error))
    except (TypeError, AttributeError, pickle.PicklingError):
        error = RuntimeError(f"{type(error).__name__}: {error}")
        error.add_note(note)
    return error
