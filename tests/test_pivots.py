"""Pivot profiling: real rollouts of a small random model, its pool in a run folder, and `superrl profile`."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from small_loop import EASY, HARD, Loop, problem
from small_runs import TASK, rows, small_model
from superrl import cli, data, pivots
from superrl.errors import RunError, UserError
from superrl.pivots import Pivot, due, kept, pivot, pool, profile
from superrl.records import Group
from superrl.rollout import keyed, score

SOME = [problem(f"some {i}", " ".join("abcdefghijklmnopqrstuvwxyz"[i : i + 9])) for i in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERRL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def loop() -> Loop:
    made = Loop({"name": "grpo"}, [EASY, HARD, *SOME])
    made.sampler.load(made.learner.weights(), 0)
    return made


def profiled(loop: Loop, groups=None, **changes) -> tuple[Pivot, ...]:
    settings = {"rollouts": 8, "seed": 0, **changes}
    return profile(loop.groups if groups is None else groups, loop.environment, loop.sampler, **settings)


def test_a_pivot_is_the_mean_and_the_population_variance_of_its_rollouts_rewards(loop):
    from superrl.records import Request
    from superrl.rollout import roll_out

    found = profiled(loop)
    visits = keyed(loop.groups, (0, pivots.PURPOSE))
    again = score(
        roll_out([(Request(8),)] * len(visits), visits, loop.environment, loop.sampler, None), loop.environment
    )
    values = [[s.value for s in group.scores] for group in again]
    assert [one.mean for one in found] == pytest.approx([statistics.fmean(v) for v in values])
    assert [one.variance for one in found] == pytest.approx(
        [statistics.fmean(v) * (1 - statistics.fmean(v)) for v in values]
    )
    assert found[1] == Pivot(0.0, 0.0), "HARD is never right"
    assert sum(one.variance > 0 for one in found) >= 2


def test_a_profile_depends_on_no_neighbour_no_chunk_and_is_drawn_anew_at_another_visit(loop, monkeypatch):
    whole = profiled(loop)
    assert profiled(loop, loop.groups[2:5]) == whole[2:5]
    monkeypatch.setattr(pivots, "CHUNK", 3)
    heard: list[int] = []
    assert profiled(loop, heard=heard.append) == whole and sum(heard) > 0
    assert profiled(loop, visit=(0, 7)) != whole and profiled(loop, seed=1) != whole


def test_rollouts_that_a_group_already_has_count_for_nothing(loop):
    scored = score(loop.planned()[0], loop.environment)
    assert profiled(
        loop, [replace(g, trajectories=s.trajectories) for g, s in zip(loop.groups, scored, strict=True)]
    ) == (profiled(loop))


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=12))
def test_variance_is_zero_exactly_where_all_rewards_are_equal(values):
    assert (pivot(values).variance == 0.0) or len(set(values)) > 1
    assert pivot([values[0]] * 7).variance == 0.0
    assert pivot(values).mean == pytest.approx(statistics.fmean(values))


def test_only_what_varies_and_is_not_yet_good_is_kept():
    found = [Pivot(0.0, 0.0), Pivot(0.5, 0.2), Pivot(0.9, 0.01), Pivot(0.89, 1e-12), Pivot(-0.3, 0.4), Pivot(1.0, 0.0)]
    assert kept(found, 0.9) == (1, 3, 4) and kept(found, 0.5) == (4,) and kept([], 0.9) == ()


# The pool of a run


def drawn_from(loop: Loop, folder: Path, stage_step: int, **changes) -> tuple[int, ...]:
    settings = {
        "rollouts": 8, "below": 0.9, "every": 2, "folder": folder, "data": "d", "stage": 0, "step": stage_step,
        "stage_step": stage_step, "seed": 0, **changes,
    }  # fmt: skip
    return pool(loop.groups, loop.environment, loop.sampler, **settings)


class Silenced:
    """A sampler that must not be asked."""

    def sample(self, *arguments):
        raise AssertionError("nothing may be drawn here")


def silent(loop: Loop) -> Loop:
    quiet = object.__new__(Loop)
    quiet.__dict__ |= loop.__dict__ | {"sampler": Silenced()}
    return quiet


def test_the_pool_is_profiled_when_due_and_read_in_between(loop, tmp_path):
    notes: list[str] = []
    first = drawn_from(loop, tmp_path, 0, note=notes.append)
    assert first == kept(profiled(loop, visit=(0, 0)), 0.9) and 0 < len(first) < len(loop.groups)
    assert notes == [f"pivots: {len(first)} of 8 problems vary with a mean reward below 0.9"]
    assert drawn_from(silent(loop), tmp_path, 1) == first
    assert drawn_from(silent(loop), tmp_path, 0) == first, "a run continued at its first step draws nothing anew"
    second = drawn_from(loop, tmp_path, 2)
    assert second == kept(profiled(loop, visit=(0, 2)), 0.9)
    assert drawn_from(silent(loop), tmp_path, 3) == second
    assert sorted(path.name for path in (tmp_path / "pivots").iterdir()) == ["step-0.json", "step-2.json"]
    told = json.loads((tmp_path / "pivots" / "step-2.json").read_text())
    assert told["kept"] == list(second) and len(told["pivots"]) == 8 and told["step"] == 2


def test_without_every_a_stage_keeps_the_pool_it_began_with(loop, tmp_path):
    first = drawn_from(loop, tmp_path, 0, every=None, step=10)
    assert (tmp_path / "pivots" / "step-10.json").is_file()
    assert drawn_from(silent(loop), tmp_path, 25, every=None, step=35) == first


@pytest.mark.parametrize("change", [{"data": "other"}, {"stage": 1}, {"rollouts": 4}, {"below": 0.5}, {"seed": 1}])
def test_a_pool_of_another_stage_data_or_setting_is_not_taken(loop, tmp_path, change):
    drawn_from(loop, tmp_path, 0)
    with pytest.raises(AssertionError, match="nothing may be drawn here"):
        drawn_from(silent(loop), tmp_path, 0, **change)
    with pytest.raises(RunError, match="is missing or of another run"):
        drawn_from(loop, tmp_path, 1, **change)


@pytest.mark.parametrize("damage", ["", "[]", "{"])
def test_a_damaged_pool_is_profiled_again_where_it_can_be(loop, tmp_path, damage):
    first = drawn_from(loop, tmp_path, 0)
    (tmp_path / "pivots" / "step-0.json").write_text(damage)
    with pytest.raises(RunError, match="put it back, or start a new run"):
        drawn_from(loop, tmp_path, 1)
    assert drawn_from(loop, tmp_path, 0) == first


def test_a_stage_without_any_pivot_says_so(loop, tmp_path):
    bare = silent(loop)
    bare.sampler, bare.groups = loop.sampler, [Group(HARD), Group(replace(HARD, id="hard too"))]
    with pytest.raises(
        UserError, match=r"none of 2 problems has .* below 0.9 \(2 all alike, 0 at 0.9 or above\): raise"
    ):
        drawn_from(bare, tmp_path, 0)
    assert not (tmp_path / "pivots").exists()


def test_if_a_later_profile_keeps_none_the_pool_stays(loop, tmp_path, monkeypatch):
    first = drawn_from(loop, tmp_path, 0)
    monkeypatch.setattr(pivots, "profile", lambda *_, **__: (Pivot(1.0, 0.0),) * 8)
    notes: list[str] = []
    assert drawn_from(loop, tmp_path, 2, note=notes.append) == first
    assert notes[0].endswith(f"the {len(first)} of before stay")
    assert drawn_from(loop, tmp_path, 4) == drawn_from(silent(loop), tmp_path, 5) == first


def test_when_a_profile_is_due():
    assert [due(step, 3) for step in range(5)] == [True, False, False, True, False]
    assert [due(step, None) for step in range(3)] == [True, False, False]


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


STEPS = f"steps:{TASK}&n=12"
CUT = ["--truncation", "{top_k: 5}"]
SETTINGS = ["--reward", "{name: step_similarity}", "--max-new-tokens", "6", "--rollouts", "4"]


def test_the_command_writes_the_kept_rows_and_every_profile(model, tmp_path, capsys):
    out, report = tmp_path / "kept.jsonl", tmp_path / "profile.jsonl"
    assert cli.run(["profile", str(model), STEPS, "--out", str(out), "--report", str(report), *SETTINGS]) == 0
    told = capsys.readouterr().out
    profiles = rows(tmp_path, "profile.jsonl")
    whole = {problem.id: problem for problem in data.load(STEPS, "train").problems}
    assert [row["id"] for row in profiles] == list(whole)
    assert [row["kept"] for row in profiles] == [row["variance"] > 0 and row["mean"] < 0.9 for row in profiles]
    found = data.load(str(out), "train").problems
    assert [problem.id for problem in found] == [row["id"] for row in profiles if row["kept"]]
    for problem_ in found:
        meta = dict(problem_.meta)
        row = next(row for row in profiles if row["id"] == problem_.id)
        assert meta.pop("pivot") == {"mean": row["mean"], "variance": row["variance"]}
        assert replace(problem_, meta=meta) == replace(whole[problem_.id], meta=dict(whole[problem_.id].meta))
    assert told.startswith(f"{len(found)} of {len(profiles)} problems kept in {out}; left out: ")
    assert '\n  reward: {"name": "step_similarity"}\n' in told and '\n  stop: ["\\n"]' in told


def test_a_profile_is_kept_on_disk_until_weights_data_or_settings_change(model, tmp_path, monkeypatch):
    calls: list[int] = []
    real = pivots.profile
    monkeypatch.setattr(pivots, "profile", lambda groups, *a, **k: calls.append(len(groups)) or real(groups, *a, **k))

    def profiled(*more: str, name: Path = model, source: str = STEPS) -> bytes:
        arguments = ["profile", str(name), source, "--out", str(tmp_path / "k.jsonl"), *SETTINGS, *more]
        assert cli.run(arguments) == 0
        return (tmp_path / "k.jsonl").read_bytes()

    first = profiled()
    assert profiled() == first and len(calls) == 1
    profiled("--below", "0.8")
    assert len(calls) == 1, "which to keep is decided afterwards"
    for changed, more in enumerate((["--seed", "1"], ["--rollouts", "5"], ["--temperature", "0.8"], CUT), start=2):
        profiled(*more)
        assert len(calls) == changed
    profiled(source=STEPS.replace("n=12", "n=11"))
    assert len(calls) == 6
    other = small_model(tmp_path / "other")
    profiled(name=other)
    assert len(calls) == 6, "the same weights elsewhere are the same"
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + torch.tensor(0.5)
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    profiled(name=other)
    assert len(calls) == 7


def test_a_profile_may_be_truncated_as_a_stage_is(model, tmp_path, capsys):
    line = ["profile", str(model), STEPS, "--out", str(tmp_path / "k.jsonl"), *SETTINGS, "--below", "2"]
    assert cli.run([*line, *CUT]) == 0
    capsys.readouterr()
    assert cli.run([*line, "--truncation", "{top_k: 1}"]) == 2
    assert "is kept (24 all alike, 0 at 2 or above)" in capsys.readouterr().err, "one token to draw from: greedy"


def test_when_none_is_kept_nothing_is_written_but_the_report(model, tmp_path, capsys):
    out, report = tmp_path / "kept.jsonl", tmp_path / "profile.jsonl"
    line = ["profile", str(model), STEPS, "--out", str(out), "--report", str(report), *SETTINGS, "--below", "-2"]
    assert cli.run(line) == 2
    err = capsys.readouterr().err
    assert "none of" in err and err.count("\n") == 1 and not out.exists() and report.exists()


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_the_rows_that_are_profiled_are_not_written_over(model, tmp_path, capsys, option):
    source = tmp_path / "in.jsonl"
    row = {"id": "a", "prompt": "1+1=", "demonstrations": [{"steps": ["b", "c"]}]}
    source.write_text(json.dumps(row) + "\n")
    before = source.read_bytes()
    line = ["profile", str(model), f"steps:{source}?think=none", "--out", str(tmp_path / "k.jsonl")]
    assert cli.run([*line, *SETTINGS, "--below", "2", option, str(source)]) == 2
    assert f"{option} {source} is a file that is read or written already" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--out", "kept.csv"], "must end in .jsonl"),
        (["--rollouts", "1"], "--rollouts"),
        (["--temperature", "0"], "--temperature"),
        (["--truncation", "{top_p: 2}"], "--truncation: top_p: input should be less than"),
        (["--report", "/nowhere/r"], "cannot write /nowhere/r"),
    ],
)
def test_wrong_input_is_one_sentence(model, tmp_path, capsys, more, sentence):
    assert cli.run(["profile", str(model), STEPS, "--out", str(tmp_path / "k.jsonl"), *more]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
