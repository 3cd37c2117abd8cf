"""The benchmark programs start, and the helpers that turn measurements into figures compute what they say."""

import doctest
import importlib
import json
import os
import runpy
import sys
from itertools import pairwise
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py") if "def main()" in path.read_text())


@pytest.fixture
def bench(monkeypatch):
    """A benchmark module by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("program", [name for name in PROGRAMS if not name.startswith("side_superrl")])
def test_a_program_says_how_it_is_used(program, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / program), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {program}" in capsys.readouterr().out


def test_the_index_names_every_program():
    page = (FOLDER / "README.md").read_text()
    missing = [name for name in PROGRAMS if not name.startswith("side_") and f"`{name}" not in page]
    assert PROGRAMS and missing == []


def test_examples_of_the_helpers(bench):
    found = doctest.testmod(bench("common"))
    assert found.attempted >= 3 and found.failed == 0


def test_ratios_are_of_neighbours_as_far_as_both_go(bench):
    common = bench("common")
    assert common.ratio([4.0, 9.0, 100.0], [2.0, 3.0])["median"] == 2.5
    assert common.spread([7.0]) == {"median": 7.0, "q25": 7.0, "q75": 7.0, "n": 1}
    assert common.shown(common.spread([1.0, 2.0, 4.0]), 1) == "2.0 [1.5, 3.0]"


ECHO = """
import sys
sys.path.insert(0, {folder!r})
from common import Turns
turns = Turns()
turns.wait()
for number in range(100):
    print("noise", flush=True)
    if {fails} and number == 1:
        raise ValueError("no more")
    turns.done({{"number": number, "heard": turns.changes.get("asked", -1)}})
"""


def echo(bench, name, fails=False):
    return bench("common").Side(name, [sys.executable, "-c", ECHO.format(folder=str(FOLDER), fails=fails)], threads=1)


def test_sides_take_turns_and_a_closed_one_is_left_out(bench, capfd):
    common = bench("common")
    sides = [echo(bench, "a"), echo(bench, "b")]
    seen = []
    for found in common.rounds(sides, repeats=3, warmup=1, changes=[{"asked": 0}, {"asked": 5}]):
        seen.append({name: len(turns) for name, turns in found.items()})
        sides[1].close()
    sides[0].close()
    assert seen == [{"a": 2, "b": 2}, {"a": 4, "b": 2}, {"a": 6, "b": 2}]
    assert [turn["number"] for turn in found["a"]] == [1, 2, 3, 4, 5, 6]  # number 0 was the warm-up
    assert [turn["heard"] for turn in found["a"]] == [turn["asked"] for turn in found["a"]] == [0, 5] * 3
    assert all(turn["seconds"] > 0 and turn["peak_bytes"] > 2**20 for turn in found["a"])
    order = [line.split()[2] for line in capfd.readouterr().err.splitlines() if line.startswith("round 1")]
    assert order == ["a", "b", "a", "b"]


def test_a_side_that_fails_ends_the_run_with_its_last_words(bench):
    side = echo(bench, "broken", fails=True)
    side.turn()
    with pytest.raises(SystemExit, match=r"ValueError: no more[\s\S]*the side broken ended with status 1"):
        side.turn()


def test_peak_memory_is_of_this_program_alone(bench):
    """A child of a large process is not as large as its parent."""
    ballast = bytearray(os.urandom(2**10)) * 2**17  # 128 MiB, touched
    side = echo(bench, "small")
    peak = side.turn()["peak_bytes"]
    side.close()
    assert len(ballast) == 2**27 and peak < 2**26


def turn(seconds, generate=1.0, peak=2**30, **more):
    return {"seconds": seconds, "generate": generate, "train": seconds - generate, "peak_bytes": peak, **more}


def test_a_comparison_is_against_the_fastest_variant_that_went_on(bench):
    against = bench("against")
    found = {
        "superrl": [turn(2.0, generated=64.0), turn(4.0, generated=64.0)],
        "trl": [turn(9.0, peak=2**31, generated=64.0), turn(15.0, peak=2**31, generated=64.0)],
        "trl-bfloat16": [turn(8.0, generated=64.0), turn(20.0, generated=64.0)],
        "trl-continuous": [turn(9.3, generated=64.0)],
    }
    assert against.dismissed(found) == {"trl-continuous"}
    told = against.summary(found)
    assert told["against"] == "trl"
    assert told["ratios"]["seconds"]["median"] == pytest.approx((4.5 + 3.75) / 2)
    assert told["ratios"]["train"]["median"] == pytest.approx((8 + 14 / 3) / 2)
    assert told["ratios"]["peak_memory"] == 2.0 and told["ratios"]["tokens_theirs_to_ours"] == 1.0
    assert "ratios" not in against.summary({"superrl": found["superrl"]})


def test_growth_is_fitted_along_one_axis(bench):
    growth = bench("growth")
    points = growth.points(["group", "prompt"], quick=False)
    assert points[0] == growth.BASE and len(points) == len({tuple(p.items()) for p in points}) == 9
    measured = [
        {
            "point": p,
            "peak_gib": 1 + p["group"] / 1024,
            **{key: {"median": 3.0 * p["group"] ** 0.5} for key in growth.COSTS},
        }
        for p in points
    ]
    fit = growth.fit("group", measured)
    assert fit["sizes"] == [2, 4, 8, 16, 32] and fit["mib_a_unit"] == pytest.approx(1.0)
    assert fit["exponent"]["train"] == pytest.approx(0.5) == fit["last_doubling"]["seconds"]
    assert growth.fit("prompts", measured[:1]) is None


def test_dead_groups_get_one_reward_and_the_others_never(bench):
    reward = bench("workload").SeededReward()
    index = [i for i in range(4) for _ in range(3)]
    reward.dead = 2
    first = reward([""] * 12, [""] * 12, index)
    assert first[:6] == [0.0] * 6 and all(value > 0 for value in first[6:])
    assert len(set(first[6:])) == 6 and reward([""] * 12, [""] * 12, index) != first
    again = bench("workload").SeededReward()
    assert again([""] * 12, [""] * 12, index)[6:] == first[6:]


def test_a_workload_survives_the_way_to_a_side(bench, tmp_path):
    workload = bench("workload")
    work = workload.Workload("folder", ("a", "b"), ("c", "d"), completions=3, dtype="float32")
    assert workload.Workload.load(str(work.save(tmp_path / "work.json"))) == work


def test_every_context_begins_the_next_by_tokens_and_the_end_cannot_be_drawn(bench, tmp_path):
    from transformers import AutoConfig, AutoTokenizer

    workload = bench("workload")
    folder = workload.unending(workload.shaped("small", tmp_path / "shape"), tmp_path / "endless")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in workload.contexts(4, 20, 7, 4096)]
    assert [len(one) for one in ids] == [20, 27, 34, 41]
    assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(ids))
    vocabulary = AutoConfig.from_pretrained(folder).vocab_size
    declared = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id == declared >= vocabulary
    assert (folder / "model.safetensors").resolve() == (tmp_path / "shape" / "model.safetensors").resolve()


def test_our_side_draws_all_its_tokens_and_trains_on_the_live_groups_alone(bench, tmp_path):
    """Two steps of the small shape, the second with a dead group."""
    against, workload, common = bench("against"), bench("workload"), bench("common")
    model = workload.unending(workload.shaped("small", tmp_path / "shape"), tmp_path / "endless")
    work = workload.Workload(str(model), ("w10 w11 w12", "w20 w21"), completions=3, new_tokens=5, threads=1)
    with against.started(["superrl"], work, tmp_path, None) as sides:
        *_, found = common.rounds(sides, repeats=1, warmup=0, changes=[{"dead": 0}, {"dead": 1}])
    whole, half = found["superrl"]
    assert whole["generated"] == half["generated"] == 30
    assert (whole["live_groups"], half["live_groups"]) == (2, 1)
    assert (whole["trained"], half["trained"]) == (30, 15)
    assert whole["seconds"] >= whole["generate"] + whole["train"] > 0
