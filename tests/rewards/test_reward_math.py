"""The reward math: verdicts, time-outs, threads, dead workers. The workers are real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superrl.errors import RunError
from superrl.records import Problem, Score
from superrl.rewards import build
from superrl.rewards.mathematics import WORKER, MathReward
from superrl.rewards.workers import PATIENCE, Pool, Worker

TOWER = r"\boxed{9^{9^{9^{9^9}}}}"  # a power no machine finishes


def ask(answer: str | None) -> Problem:
    return Problem("p", ({"role": "user", "content": "q"},), answer)


def math(timeout: float = 30.0, processes: int = 1) -> MathReward:
    reward = build({"name": "math", "timeout": timeout}, processes=processes)
    assert isinstance(reward, MathReward)
    return reward


def one(reward: MathReward, gold: str, text: str) -> Score:
    return reward.score([ask(gold)], [text])[0]


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    with math(processes=2) as made:
        assert isinstance(made, MathReward)
        yield made


VERDICTS = [
    (r"\frac{1}{2}", r"so \boxed{0.5}", True), ("42", "The answer is 42.", True), ("42", "#### 42", True),
    ("1,234", r"\boxed{1234}", True), ("x^2+2x+1", r"\boxed{(x+1)^2}", True), ("x^2+2x+1", r"\boxed{(x+2)^2}", False),
    ("18", r"\boxed{18 dollars}", True), ("5", "so 3 + 2 = 5 apples", True), (r"\text{east}", r"\boxed{East}", True),
    ("(1,2)", r"\boxed{(1, 2)}", True), ("(1,2)", r"\boxed{(2, 1)}", False), (r"\sqrt{8}", r"\boxed{2\sqrt2}", True),
    ("10", "The final answer is $10$.", True), ("10", "The final answer is $11$.", False),
    (r"\{1,2,3\}", r"\boxed{\{3, 2, 1\}}", True), ("x=5", r"\boxed{5}", True), ("5", r"\boxed{x = 5}", True),
    ("50", r"\boxed{50\%}", True), (r"\frac{\pi}{4}", r"the answer is $\pi/4$", True), ("7", "nothing", False),
    (r"[0, 1)", r"\boxed{[0,1)}", True), (r"[0, 1)", r"\boxed{(0,1)}", False), ("7", "", False),
    ("7", "7 or 8?", False),
    (r"\begin{pmatrix}1\2\end{pmatrix}", r"\boxed{\begin{pmatrix} 1.0 \\ 2 \end{pmatrix}}", True),
    ("x < 3", r"\boxed{3 > x}", True), ("7", r"\boxed{}", False), ("2", r"#### 2", True),
    ("so\n#### 12", r"\boxed{12}", True), (r"hence \boxed{2\sqrt{3}}", r"\boxed{\sqrt{12}}", True),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "text", "correct"), VERDICTS)
def test_verdicts(reward: MathReward, gold: str, text: str, correct: bool) -> None:
    score = one(reward, gold, text)
    assert (score.value, score.correct, score.parts["timeout"]) == (float(correct), correct, 0.0)


@pytest.mark.parametrize(
    ("text", "answered"), [(r"\boxed{x+1}", 1.0), ("answer: x+1", 1.0), ("I get $x+1$", 0.0), ("", 0.0)]
)
def test_answered_says_whether_the_completion_names_its_answer(reward: MathReward, text: str, answered: float) -> None:
    assert one(reward, "1+x", text).parts["answered"] == answered


GOLD = [("42", True), ("#### 42", True), (r"\frac{1}{2}", True), (r"\text{Monday}", True), ("x^2", True),
        (r"\boxed{3}", True), (r"\frac{", False), ("2,3,{}4", False), ("", False), (None, False)]  # fmt: skip


def test_gold_answers_no_parser_reads_are_named_in_one_sentence(reward: MathReward) -> None:
    whys = reward.unreadable_all([ask(gold) for gold, _ in GOLD])
    assert [why is None for why in whys] == [good for _, good in GOLD]
    assert all("'p'" in why and "\n" not in why for why in whys if why)
    assert "no parser reads the gold answer" in (reward.unreadable(ask(r"\frac{")) or "")


def test_plain_answers_start_no_worker() -> None:
    with math() as reward:
        assert isinstance(reward, MathReward)
        scores = reward.score([ask(str(n)) for n in range(256)], [f"{'so ' * 300}\\boxed{{{n}}}" for n in range(256)])
        assert all(score.correct for score in scores)
        assert reward.unreadable(ask("5")) is None
        assert one(reward, "", r"\boxed{x+1}").correct is False
        assert one(reward, "x+1", "").correct is False
        assert one(reward, "x+1", rf"\boxed{{{'x+' * 2000}1}}").correct is False
        assert reward._pool.idle == []


def test_an_answer_that_takes_too_long_scores_zero_and_is_counted_and_its_worker_is_replaced() -> None:
    with math(timeout=1.5) as reward:
        assert isinstance(reward, MathReward)
        assert one(reward, "2x", r"\boxed{x+x}").correct is True
        first = reward._pool.idle[0].process
        start = time.monotonic()
        scores = reward.score([ask("2x"), ask("3"), ask("4x")], [r"\boxed{x + 1x}", TOWER, r"\boxed{2x+2x}"])
        assert time.monotonic() - start < 60
        assert [score.correct for score in scores] == [True, False, True]
        assert scores[1] == Score(0.0, False, {"answered": 1.0, "timeout": 1.0})
        assert first.poll() is not None
        start = time.monotonic()
        assert one(reward, "3", TOWER) == scores[1]
        assert time.monotonic() - start < 0.5  # remembered: a policy that repeats itself costs the limit once


def test_the_limit_is_per_answer_and_does_not_count_the_start_of_the_worker(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "time.sleep(1.2)\n"
        "print('\"ready\"', flush=True)\n"
        "for line in sys.stdin:\n"
        "    time.sleep(0.3)\n"
        "    print('true', flush=True)\n"
    )
    pool = Pool(script, processes=1)
    assert [reply.status for reply in pool.ask([{}] * 5, 1.0 / PATIENCE)] == ["ok"] * 5
    assert [reply.status for reply in pool.ask([{}], 0.05 / PATIENCE)] == ["timeout"]
    pool.close()


def test_it_works_off_the_main_thread_and_in_several_at_once() -> None:
    with math(timeout=1.5, processes=2) as reward, ThreadPoolExecutor(3) as threads:
        assert isinstance(reward, MathReward)
        found: list[Score] = []
        thread = threading.Thread(target=lambda: found.append(one(reward, "x^2-1", r"\boxed{(x-1)(x+1)}")))
        thread.start()
        thread.join()
        assert found[0].correct is True
        calls = [threads.submit(one, reward, f"{n}x", rf"\boxed{{{n - 1}x + x}}") for n in range(2, 8)]
        assert all(call.result().correct for call in calls)
        assert threads.submit(one, reward, "3", TOWER).result().parts["timeout"] == 1.0


def test_a_worker_that_is_killed_is_replaced_and_its_answer_asked_again() -> None:
    with math() as reward:
        assert isinstance(reward, MathReward)
        one(reward, "2x", r"\boxed{x+x}")
        process = reward._pool.idle[0].process
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert one(reward, "3x", r"\boxed{x+2x}") == Score(1.0, True, {"answered": 1.0, "timeout": 0.0})


def test_a_worker_killed_in_the_middle_of_a_batch_changes_no_verdict() -> None:
    golds = [f"{n}x^2+{n}x" for n in range(2, 26)]
    texts = [rf"\boxed{{{n + n % 2}x(x+1)}}" for n in range(2, 26)]
    with math(processes=2) as reward:
        assert isinstance(reward, MathReward)
        one(reward, "2x", r"\boxed{x+x}")
        killer = threading.Timer(0.1, reward._pool.idle[0].process.kill)
        killer.start()
        scores = reward.score([ask(gold) for gold in golds], texts)
        killer.join()
    assert [score.correct for score in scores] == [n % 2 == 0 for n in range(2, 26)]


def test_verdicts_do_not_depend_on_order_or_on_how_many_workers_there_are(reward: MathReward) -> None:
    pairs = [(gold, text) for gold, text, _ in VERDICTS[::2]] * 2
    forward = reward.score([ask(gold) for gold, _ in pairs], [text for _, text in pairs])
    with math(processes=1) as alone:
        backward = alone.score([ask(gold) for gold, _ in pairs[::-1]], [text for _, text in pairs[::-1]])
    assert forward == backward[::-1]


def test_workers_are_reused_and_end_with_the_reward() -> None:
    reward = math()
    one(reward, "2x", r"\boxed{x+x}")
    first = reward._pool.idle[0].process.pid
    one(reward, "3x", r"\boxed{x+2x}")
    (worker,) = reward._pool.idle
    assert worker.process.pid == first
    reward.close()
    assert worker.process.poll() is not None
    assert one(reward, "4x", r"\boxed{x+3x}").correct is True  # closing is not the end: it starts a new one
    reward.close()


def test_a_forgotten_reward_ends_its_workers() -> None:
    reward = math()
    one(reward, "2x", r"\boxed{x+x}")
    process = reward._pool.idle[0].process
    del reward
    assert process.wait(5) != 0


def test_workers_import_neither_torch_nor_superrl() -> None:
    code = (
        "import sys, io, runpy; sys.stdin = io.StringIO('')\n"
        f"runpy.run_path({str(WORKER)!r}, run_name='__main__')\n"
        "sys.exit(any(name.split('.')[0] in ('torch', 'superrl', 'transformers') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, '"ready"\n')


def test_a_worker_survives_ctrl_c() -> None:
    worker = Worker(WORKER)
    worker.process.send_signal(signal.SIGINT)
    reply = worker.ask({"gold": "2x", "prediction": "x+x", "bare": True}, 30.0)
    assert reply is not None and reply.value is True
    worker.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer of processor time")
def test_the_limit_is_processor_time_so_that_a_busy_machine_changes_no_verdict() -> None:
    worker = Worker(WORKER)
    reply = worker.ask({"gold": "3", "prediction": "9^{9^{9^{9^9}}}", "bare": True}, 0.5)
    assert reply is not None and reply.status == "timeout"
    assert (worker.process.returncode, worker.timed_out) == (-signal.SIGPROF, False)


def test_a_time_out_that_came_too_late_is_not_held_against_the_next_answer() -> None:
    worker = Worker(WORKER)
    worker.timed_out = True  # as if the timer had fired between the reply and its cancellation
    worker.process.kill()
    assert worker.ask({"gold": "2x"}, 30.0) is None


def test_a_worker_that_cannot_start_stops_the_run(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(RunError, match=r"broken\.py did not start"):
        Pool(script).ask([{}], 1.0)


def test_a_request_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    script = tmp_path / "fragile.py"
    script.write_text(
        "import json, os, sys\n"
        "print(json.dumps('ready'), flush=True)\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    os._exit(1) if request['die'] else print(json.dumps(request['n']), flush=True)\n"
    )
    pool = Pool(script, processes=2)
    replies = pool.ask([{"n": n, "die": n == 7} for n in range(40)], 30.0)
    pool.close()
    assert [reply.value for reply in replies] == [None if n == 7 else n for n in range(40)]
    assert replies[7].status == "crash"


def test_the_memory_of_verdicts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superrl.rewards.mathematics.REMEMBERED", 10)
    reward = math()
    reward.score([ask(str(n)) for n in range(50)], [rf"\boxed{{{n}}}" for n in range(50)])
    assert len(reward._known) <= 10


FRAGMENTS = st.lists(
    st.sampled_from(
        [r"\frac", "{", "}", "^", "_", r"\sqrt", "x", "12", "(", ")", r"\int", r"\sum", "=", "<", ",", r"\infty", "!",
         r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\", "\x00", "\ud800", "%", "1/0", r"\text", "$", "|"]
    ),
    max_size=9,
).map("".join)  # fmt: skip


@settings(max_examples=15)
@given(texts=st.lists(st.text(max_size=30) | FRAGMENTS, min_size=8, max_size=8), gold=FRAGMENTS)
def test_no_text_makes_it_raise(texts: list[str], gold: str) -> None:
    reward = fuzzed()
    wrapped = [f"\\boxed{{{text}}}" for text in texts] + [f"the answer is {text}" for text in texts] + texts
    for wanted in (gold, "7", "x+1"):
        scores = reward.score([ask(wanted)] * len(wrapped), wrapped)
        assert all(score.value == float(bool(score.correct)) for score in scores)
    reward.unreadable(ask(gold))


FUZZED: list[MathReward] = []


def fuzzed() -> MathReward:
    """One reward for all examples; a strange sum may take its time, so the limit is short."""
    if not FUZZED:
        FUZZED.append(math(timeout=1.0, processes=2))
    return FUZZED[0]
