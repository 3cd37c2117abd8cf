"""Worker processes: outcomes and errors come back, a wish to stop arrives in the midst of a task, nobody is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from superrl.comparison.crew import Crew, Stop
from superrl.errors import Diverged, Interrupted, RunError, UserError


class Unmoved(ValueError):
    """An exception that cannot travel."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def work(task: tuple[str, str], stop: Stop) -> str:
    """What the tests' tasks are."""
    kind, text = task
    if kind == "raise":
        raise {"user": UserError, "run": RunError, "diverged": Diverged, "bug": ZeroDivisionError}[text](
            f"a {text} error"
        )
    if kind == "unmoved":
        raise Unmoved("a", text)
    if kind == "die":
        os._exit(int(text))
    if kind == "until stopped":  # as training does: it saves, then says that it was interrupted
        Path(text).write_text("began")
        while not stop():
            time.sleep(0.01)
        time.sleep(0.2)
        Path(text).write_text("saved")
        raise Interrupted(signal.SIGTERM)
    if kind == "deaf":
        Path(text).write_text(str(os.getpid()))
        time.sleep(60)
    if kind == "interrupt yourself":
        raise Interrupted(signal.SIGINT)
    return f"{os.getpid()} {text}"


def never() -> None:
    """No signal has arrived."""


def wait_for(path: Path, text: str | None = None) -> str:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if path.is_file() and (found := path.read_text()) and text in (None, found):
            return found
        time.sleep(0.01)
    raise AssertionError(f"{path} does not say {text}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_tasks_are_shared_by_few_processes_that_last() -> None:
    tasks = [("tell", str(i)) for i in range(7)]
    with Crew(work, 2, never) as crew:
        found = [(task, outcome) for part in (tasks[:5], tasks[5:]) for task, outcome in crew.each(part)]
    assert sorted(task for task, _ in found) == tasks
    assert all(isinstance(outcome, str) and outcome.split()[1] == task[1] for task, outcome in found)
    processes = {int(str(outcome).split()[0]) for _, outcome in found}
    assert 1 <= len(processes) <= 2 and os.getpid() not in processes
    assert not any(map(is_alive, processes))


def test_errors_come_back_as_they_are_and_the_others_go_on() -> None:
    tasks = [("raise", "user"), ("raise", "diverged"), ("raise", "bug"), ("unmoved", "b"), ("tell", "x"),
             ("interrupt yourself", "")]  # fmt: skip
    with Crew(work, 1, never) as crew:
        found = [outcome for _, outcome in crew.each(tasks)]
    assert [type(outcome) for outcome in found] == [
        UserError,
        Diverged,
        ZeroDivisionError,
        RuntimeError,
        str,
        Interrupted,
    ]
    assert [str(outcome) for outcome in found[:4]] == [
        "a user error",
        "a diverged error",
        "a bug error",
        "Unmoved: a b",
    ]
    assert "in work" in found[2].__notes__[0] and "in work" in found[3].__notes__[0], "where it happened"
    assert found[5].exit_code == 130


def test_a_process_that_dies_is_a_run_error_of_its_task_and_is_replaced() -> None:
    tasks = [("die", "3"), ("tell", "x")]
    with Crew(work, 1, never) as crew:
        found = dict(crew.each(tasks))
    died = found["die", "3"]
    assert isinstance(died, RunError) and str(died) == "its process ended by itself, with exit status 3"
    assert str(found["tell", "x"]).endswith(" x")


def test_leaving_by_an_error_lets_tasks_save_first(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    tasks = [("until stopped", str(saved)), ("raise", "user"), ("tell", "never")]
    with pytest.raises(ZeroDivisionError), Crew(work, 2, never) as crew:
        for task, _ in crew.each(tasks):
            assert task == ("raise", "user")
            wait_for(saved, "began")
            raise ZeroDivisionError
    assert saved.read_text() == "saved"


def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    saved, arrived = tmp_path / "saved", threading.Event()

    def check() -> None:
        if saved.is_file():
            arrived.set()
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted), Crew(work, 1, check) as crew:
        list(crew.each([("until stopped", str(saved)), ("tell", "never")]))
    assert arrived.is_set() and saved.read_text() == "saved"


def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    file, began = tmp_path / "pid", time.monotonic()

    def check() -> None:
        if file.is_file() and file.read_text():
            raise SystemExit(130)

    with pytest.raises(SystemExit), Crew(work, 1, check) as crew:
        list(crew.each([("deaf", str(file))]))
    assert not is_alive(int(file.read_text())) and time.monotonic() - began < 30


def test_a_terminal_s_ctrl_c_does_not_end_idle_workers() -> None:
    with Crew(work, 1, never) as crew:
        (_, first), = crew.each([("tell", "a")])  # fmt: skip
        process = int(str(first).split()[0])
        os.kill(process, signal.SIGINT)
        time.sleep(0.2)
        assert [outcome for _, outcome in crew.each([("tell", "b")])] == [f"{process} b"]


def test_workers_whose_parent_was_killed_save_and_leave(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_crew import *\n"
        "if __name__ == '__main__':\n"
        "    with Crew(work, 1, never) as crew:\n"
        f"        list(crew.each([('until stopped', {str(saved)!r})]))\n"
    )
    (tmp_path / "main.py").write_text(code)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py")])
    wait_for(saved, "began")
    parent.kill()
    parent.wait()
    assert wait_for(saved, "saved")
