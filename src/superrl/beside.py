"""A piece of work in a thread beside a block: the next step's rollouts while this step is trained.

torch lets go of the interpreter while it computes, so the two do overlap. Leaves out what may safely be done at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def beside(work: Callable[[], T] | None) -> Iterator[Callable[[], tuple[T | None, Exception | None]]]:
    """Start `work` and yield a function that waits for (its result, what it raised); None: there is neither.

    The block does not end before the work has, unless the program is told to leave at once.
    """
    if work is None:
        yield lambda: (None, None)
        return
    done: Future[T] = Future()

    def carry_out() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    def outcome() -> tuple[T | None, Exception | None]:
        try:
            return done.result(), None
        except Exception as error:
            return None, error

    thread = Thread(target=carry_out, name="superrl-beside", daemon=True)
    thread.start()
    try:
        yield outcome
    except Exception:
        thread.join()
        raise
    thread.join()
