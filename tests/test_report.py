"""The display: what a person reads, at 80 columns, in a terminal and in a log."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from superrl.config import Recipe, parse
from superrl.report import Progress, Silent, Watch, duration, number, percent, plain_console, read_rows, results_table

recipe_values = {
    "data": {"train": "tasks:chain"},
    "stages": [{"name": "superrl", "method": {"name": "superrl"}, "steps": 60}],
}
BARREN = {"reward/correct": 0.0, "reward/std": 0.0, "switch/fallback_rate": 0.0, "loss/sft": None, "groups/drawn": 32.0}


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def recipe() -> Recipe:
    return parse(recipe_values)


def console(terminal: bool = False) -> Console:
    return plain_console(width=80, file=io.StringIO(), force_terminal=terminal, color_system=None)


def printed(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def metrics_row(step: int, **values: Any) -> dict[str, Any]:
    given = {"reward/mean": 0.3104, "reward/correct": 0.125, "switch/fallback_rate": 0.84375}
    return {"step": step, "stage": "superrl", **given, **values}


def evaluation(step: int, split: str, accuracy: float) -> dict[str, Any]:
    ci95 = [max(0.0, accuracy - 0.05), accuracy + 0.05]
    return {"step": step, "split": split, "data": f"tasks:chain?ops=3&split={split}", "k": 1, "accuracy": accuracy,
            "ci95": ci95, "n": 200}  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_log_has_one_line_a_step_that_fits_80_columns(recipe: Recipe) -> None:
    target, clock = console(), Clock()
    with Progress(recipe, target, clock) as progress:
        progress.phase("rolling out", 256)
        progress.tokens(4000)
        clock.now = 2.0
        progress.step(metrics_row(1), {"tokens_per_second/generated": 1204.4})
    assert printed(target) == "step 1/60  reward 0.310  correct 12.5%  fallback 84.4%  1204 tok/s  left 1:58\n"


def test_time_left_is_the_mean_of_the_last_steps_and_leaves_the_first_evaluation_out(recipe: Recipe) -> None:
    target, clock = console(), Clock()
    with Progress(recipe, target, clock) as progress:
        clock.now = 100.0
        progress.evaluation(evaluation(0, "test", 0.0))
        for step, now in ((1, 101.0), (2, 104.0)):
            clock.now = now
            progress.step(metrics_row(step), {})
    assert printed(target).splitlines()[-1].endswith("left 1:56")  # 58 steps of (1 + 3) / 2 seconds


def test_a_supervised_step_shows_its_loss_and_no_reward(recipe: Recipe) -> None:
    target = console()
    with Progress(recipe, target, Clock()) as progress:
        row = metrics_row(1, **{"reward/mean": None, "reward/correct": None, "loss": 1.25, "switch/fallback_rate": 1.0})
        progress.step(row, {})
    assert printed(target) == "step 1/60  loss 1.25  left 0:00\n"


def test_the_terminal_display_is_three_lines_of_at_most_80_columns(recipe: Recipe) -> None:
    target, clock = console(terminal=True), Clock()
    with Progress(recipe, target, clock) as progress:
        progress.evaluation(evaluation(0, "validation", 0.22))
        clock.now = 3.0
        progress.step(metrics_row(34), {})
        progress.phase("rolling out", 256)
        clock.now = 5.0
        progress.tokens(2408)
        still = console()
        still.print(progress._render())
    first, second, third = printed(still).splitlines()
    assert first.startswith("step 34/60 ━") and first.endswith(" 1:18 left")
    assert second == "reward 0.310  correct 12.5%  fallback 84.4%  validation 22.0% at step 0"
    assert third == "rolling out 256 · 2,408 tokens, 1,204 tok/s · 0:02"
    assert max(map(len, (first, second, third))) <= 80


def test_notes_are_printed_as_they_stand(recipe: Recipe) -> None:
    target = console()
    note = "run folder /tmp/[bold]x[/bold]/" + "long" * 30
    with Progress(recipe, target, Clock()) as progress:
        progress.note(note)
    assert printed(target) == note + "\n"


def test_the_end_shows_start_and_end_of_every_test_set_the_cost_and_where_to_go(recipe: Recipe, tmp_path: Path) -> None:
    rows = [evaluation(0, "test", 0.0), evaluation(0, "validation", 0.0), evaluation(60, "test", 0.6)]
    write_rows(tmp_path / "evaluations.jsonl", rows)
    rates = [{"switch/fallback_rate": 0.9 if step < 5 else 0.2, "switch/solved_rate": 0.1} for step in range(10)]
    write_rows(tmp_path / "metrics.jsonl", rates)
    target = console()
    summary = {"steps": 60, "wall_seconds": 183.4, "tokens": {"generated": 1234567.0}}
    Progress(recipe, target, Clock()).finish(summary, tmp_path)
    text = printed(target)
    assert "tasks:chain?ops=3&split=test  200  0.0 [0.0, 5.0]  60.0 [55.0, 65.0]" in text
    assert "fell back on a demonstration: 90.0% at first, 20.0% at the end" in text
    assert "60 steps, 3:03 wall time, 1,234,567 tokens generated" in text
    assert f"superrl show {tmp_path}\n" in text
    assert "validation" not in text


def test_a_test_set_evaluated_once_has_a_start_and_no_end() -> None:
    table = results_table([evaluation(0, "test", 0.1)])
    assert table is not None
    target = console()
    target.print(table)
    assert printed(target).splitlines()[-1].split()[-4:] == ["10.0", "[5.0,", "15.0]", "-"]
    assert results_table([]) is None


def test_a_reward_that_judges_nothing_is_shown_as_it_is(recipe: Recipe) -> None:
    rows = [evaluation(s, "test", 0.0) | {"accuracy": None, "ci95": None, "reward": s / 100} for s in (0, 60)]
    table, target = results_table(rows), console()
    assert table is not None
    target.print(table)
    with Progress(recipe, target, Clock()) as progress:
        progress.evaluation(rows[1])
    text = printed(target)
    assert "reward 0  reward 0.6" in text
    assert text.endswith("step 60  test reward 0.6  n 200  tasks:chain?ops=3&split=test\n")


def test_a_run_without_evaluations_or_steps_still_ends(recipe: Recipe, tmp_path: Path) -> None:
    target = console()
    Progress(recipe, target, Clock()).finish({}, tmp_path)
    assert f"run folder  {tmp_path}" in printed(target)


def test_the_watch_warns_once_after_ten_barren_steps() -> None:
    watch = Watch()
    heard = [watch.observe(BARREN) for _ in range(30)]
    assert [i for i, warning in enumerate(heard) if warning] == [9]
    warning = heard[9] or ""
    assert "320 groups" in warning and "demonstrations" in warning and "group_size" in warning


@pytest.mark.parametrize(
    "sign_of_life",
    [
        {"reward/correct": 0.01},
        {"reward/correct": None},
        {"reward/std": 0.1},
        {"switch/fallback_rate": 0.1},
        {"loss/sft": 0.7},
    ],
)
def test_the_watch_starts_anew_at_any_sign_of_life(sign_of_life: dict[str, Any]) -> None:
    watch = Watch()
    rows = [BARREN] * 9 + [BARREN | sign_of_life] + [BARREN] * 9
    assert [watch.observe(row) for row in rows] == [None] * 19
    assert watch.observe(BARREN) is not None


def test_progress_prints_the_warning(recipe: Recipe) -> None:
    target = console()
    with Progress(recipe, target, Clock()) as progress:
        for step in range(1, 12):
            progress.step({"step": step, **BARREN}, {})
    assert [line.startswith("warning: no rollout") for line in printed(target).splitlines()].count(True) == 1


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Silent() as silent:
        silent.note("x")
        silent.phase("rolling out", 3)
        silent.tokens(5)
        silent.step(metrics_row(1), {})
        silent.evaluation(evaluation(0, "test", 0.1))
        silent.finish({}, tmp_path)
    assert capsys.readouterr() == ("", "")


def test_reading_rows_survives_a_missing_file_and_a_line_cut_in_half(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "rew')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]


def test_numbers_for_people() -> None:
    assert [percent(x) for x in (None, 0.0, 0.1254, 1.0)] == ["-", "0.0%", "12.5%", "100.0%"]
    assert [number(x) for x in (None, 0.0, 1.2345, 12345.0, 1e-6)] == ["-", "0", "1.23", "1.23e+04", "1e-06"]
    assert [duration(x) for x in (0.2, 59.7, 61.0, 3661.0)] == ["0:00", "1:00", "1:01", "1:01:01"]
