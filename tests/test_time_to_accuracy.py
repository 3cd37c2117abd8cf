"""benchmarks/time_to_accuracy.py: what counts as reached, how efforts become figures, and that our side learns."""

import argparse
import doctest
import importlib
import json
import runpy
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """A benchmark module by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def curve(*accuracies):
    return [{"step": 5 * i, "clock": 2.0 * i, "accuracy": a} for i, a in enumerate(accuracies)]


def run(arm, seed, *accuracies, lr=1e-4, peak=1.0):
    return {"arm": arm, "lr": lr, "seed": seed, "peak_gib": peak, "curve": curve(*accuracies)}


@pytest.mark.parametrize("module", ["time_to_accuracy", "side_learning"])
def test_examples(bench, module):
    found = doctest.testmod(bench(module))
    assert found.attempted >= 1 and found.failed == 0


def test_a_run_ends_once_its_highest_accuracy_has_lasted_or_at_the_limit(bench):
    ended = bench("time_to_accuracy").ended
    options = argparse.Namespace(accuracy=[0.5, 0.7], limit=15)
    assert not ended([], options)
    assert not ended(curve(0.4, 0.6, 0.7), options)
    assert not ended(curve(0.4, 0.7, 0.6), options)
    assert ended(curve(0.4, 0.7, 0.7), options)
    assert ended(curve(0.4, 0.4, 0.4, 0.4), options)


def test_what_was_not_reached_costs_all_that_was_spent(bench):
    effort = bench("time_to_accuracy").effort
    told = curve(0.1, 0.5, 0.2, 0.6, 0.6, 0.7)
    assert effort(told, 0.6) == {"seconds": 6.0, "steps": 15, "short": 0.0}
    assert effort(told, 0.7) == {"seconds": 10.0, "steps": 25, "short": 1.0}


def test_ratios_are_of_runs_of_one_seed(bench):
    module = bench("time_to_accuracy")
    slow, fast = (0.1, 0.1, 0.1, 0.6, 0.6), (0.1, 0.6, 0.6)
    runs = [run("grpo", 0, *fast), run("trl", 0, *slow), run("trl", 1, *slow, 0.6), run("grpo", 1, 0.1, *fast)]
    told = module.summary(runs, [0.6, 0.9])
    assert told["0.6"]["grpo"]["seconds"]["median"] == 3.0 and told["0.6"]["trl"]["steps"]["median"] == 15
    assert told["0.6"]["grpo"]["trl_times"] == {"median": 2.25, "q25": 1.875, "q75": 2.625, "n": 2}  # 3 and 1.5
    assert "trl_times" not in told["0.6"]["trl"]
    assert told["0.9"]["grpo"]["reached"] == 0 and told["0.6"]["grpo"]["reached"] == 2
    lines = module.report(runs, [0.6, 0.9]).splitlines()
    assert "2 of 2" in lines[2] and ">=" not in lines[2]
    assert "0 of 2" in lines[4] and ">=" in lines[4]


def test_the_best_rate_is_the_fastest_that_gets_there_or_the_highest(bench):
    best_rates = bench("time_to_accuracy").best_rates
    runs = [
        run("grpo", 9, 0.1, 0.5, 0.6, 0.6, lr=1e-4),
        run("grpo", 9, 0.1, 0.6, 0.6, lr=2e-4),
        run("grpo", 9, 0.1, 0.9, 0.5, lr=4e-4),
        run("trl", 9, 0.1, 0.4, lr=1e-4),
        run("trl", 9, 0.1, 0.3, lr=2e-4),
    ]
    assert best_rates(runs, 0.6) == {"grpo": 2e-4, "trl": 1e-4}


def test_the_clock_stands_still_while_it_is_stopped(bench):
    watch = bench("side_learning").Stopwatch()
    watch.stop()
    around = 0.0
    for _ in range(2):
        before = time.perf_counter()
        watch.start()
        time.sleep(0.02)
        watch.start()  # runs on
        watch.stop()
        around += time.perf_counter() - before
        time.sleep(0.02)
        watch.stop()
    assert 0.04 <= watch.seconds <= around


def test_our_side_runs_from_the_command_line(bench, monkeypatch, tmp_path, capsys):
    """Two small steps: a curve on the held-out problems, a clock that goes on, and a table."""
    out = tmp_path / "found.json"
    arguments = ["time_to_accuracy.py", "--quick", "--arms", "superrl", "trl", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--lr", "superrl=1e-3", "--out", str(out)])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(FOLDER / "time_to_accuracy.py"), run_name="__main__")
    runs = json.loads(out.read_text())["runs"]
    assert [(one["arm"], one["seed"]) for one in runs] == [("superrl", 0)]  # none of TRL's without its interpreter
    assert runs[0]["lr"] == 1e-3
    start, middle, end = runs[0]["curve"]
    assert [point["step"] for point in (start, middle, end)] == [0, 1, 2]
    assert 0.0 == start["clock"] < middle["clock"] < end["clock"]
    assert 0.1 < start["accuracy"] < 0.7  # tiny's own, on 16 problems
    assert "| superrl " in capsys.readouterr().out
