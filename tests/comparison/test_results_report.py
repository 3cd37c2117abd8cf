"""A comparison folder with known numbers, from runs to compare.json, CSV, Markdown and pictures."""

import csv
import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from synthetic import ARMS, write_lifelike, write_looks, write_plan, write_run

from superrl.comparison.analysis import analyse_results, verdict_of
from superrl.comparison.plots import ARMS as LOOK
from superrl.comparison.plots import PICTURES, draw, looks
from superrl.comparison.report import analyse
from superrl.comparison.results import Missing, Point, Trial, read
from superrl.comparison.stability import collapsed, drawdown, usable_band
from superrl.comparison.statistics import adjust, estimate
from superrl.comparison.tables import count, markdown, table
from superrl.errors import UserError

FIRST = Path(__file__).parents[2] / "docs/results/first"
"""A comparison that was written before models were looked at."""
COLUMNS = {"in distribution": "test:near", "retention": "test:old"}
STEPS = (0, 10, 20, 30, 40, 50)
RISING = dict(zip(STEPS, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
FAST = dict(zip(STEPS, (0.0, 0.3, 0.6, 0.9, 0.9, 0.9), strict=True))
FALLING = dict(zip(STEPS, (0.0, 0.6, 0.8, 0.1, 0.1, 0.1), strict=True))
FLAT = dict.fromkeys(STEPS, 0.0)
FINALS = {
    "grpo": {1: (RISING, 0.50), 2: (RISING, 0.45), 3: (RISING, 0.30)},
    "superrl": {1: (FAST, 0.90), 2: (FAST, 0.80), 3: (FAST, 0.70)},
    "sft": {1: (FAST, 0.85), 2: (FALLING, 0.80), 3: (FLAT, 0.75)},
}
TOKENS = {"grpo": 100.0, "superrl": 200.0, "sft": None}


def write_known(out, *, settings=("s",), arms=tuple(FINALS), **changed):
    """Three arms, three seeds, numbers for pencil and paper."""
    write_plan(out, dict.fromkeys(settings, COLUMNS), arms, [1, 2, 3], **changed)
    for setting in settings:
        for arm in arms:
            for seed, (validation, final) in FINALS[arm].items():
                tests = {"test:near": (0.0, final), "test:old": (0.9, 0.9)}
                write_run(out / "runs" / setting / arm / f"seed-{seed}", validation, tests, tokens=TOKENS[arm])


@pytest.fixture
def known(tmp_path):
    write_known(tmp_path)
    trials = [
        {"point": {"lr": rate}, "seed": 100, "validation": value, "folder": "tuning/x"}
        for rate, value in ((1e-4, 0.2), (2e-4, 0.46), (5e-4, 0.5), (1e-3, None))
    ]
    (tmp_path / "chosen.json").write_text(json.dumps({"s": {"grpo": {"point": {"lr": 5e-4}, "trials": trials}}}))
    return tmp_path


def analysis_of(out):
    """What compare.json holds, without the pictures, which take most of the time."""
    return json.loads(json.dumps(analyse_results(read(out)), allow_nan=False))


def text_of(out):
    return markdown(analysis_of(out), [])


def test_compare_json_by_hand(known):
    found = analysis_of(known)
    setting = found["settings"]["s"]
    assert found["missing"] == [] and found["notes"] == []
    assert setting["start"] == {"in distribution": 0.0, "retention": pytest.approx(0.9)}

    grpo = setting["arms"]["grpo"]
    assert grpo["accuracy"]["in distribution"]["mean"] == pytest.approx(1.25 / 3)
    assert grpo["accuracy"]["retention"]["lo"] is None  # alike in every seed
    assert grpo["cost"] == {"steps": 50, "tokens": 5000, "seconds": 100} and grpo["kl"] is None
    assert setting["arms"]["sft"]["cost"]["tokens"] == 0
    assert grpo["chosen"] == {"lr": 5e-4} and setting["arms"]["sft"]["chosen"] is None
    assert grpo["stability"]["worst"] == {"seed": 3, "accuracy": 0.3}
    assert grpo["stability"]["lr_band"] == {"lowest": 2e-4, "highest": 5e-4, "width": pytest.approx(2.5)}
    assert setting["arms"]["sft"]["stability"]["collapsed"] == [2]
    assert setting["arms"]["sft"]["stability"]["drawdown"] == pytest.approx(0.7)
    assert setting["arms"]["sft"]["stability"]["sd"] == pytest.approx(0.05)


def test_differences_by_hand(known):
    """Differences to grpo .40 .35 .40: t = 23 with 2 degrees of freedom; to sft .05 0 -.05."""
    found = analysis_of(known)["settings"]["s"]["differences"]["in distribution"]
    grpo, sft = found["grpo"], found["sft"]
    assert grpo["by_seed"] == {"1": pytest.approx(0.4), "2": pytest.approx(0.35), "3": pytest.approx(0.4)}
    p = 1 - 23 / math.sqrt(2 + 23**2)
    assert (grpo["mean"], grpo["p"], grpo["p_holm"]) == pytest.approx((1.15 / 3, p, 2 * p))
    half = 4.302653 * 0.05 / 3
    sd = 0.05 / math.sqrt(3)
    assert (grpo["sd"], grpo["lo"], grpo["hi"]) == pytest.approx((sd, 1.15 / 3 - half, 1.15 / 3 + half), rel=1e-6)
    assert grpo["lo_holm"] < grpo["lo"] and grpo["verdict"] == "better"
    assert (sft["mean"], sft["p_holm"]) == pytest.approx((0.0, 1.0), abs=1e-9)
    assert sft["verdict"] == "no difference shown" and sft["detectable"] == pytest.approx(3.26404 * 0.05, rel=1e-4)
    assert sft["hi"] == pytest.approx(4.302653 * 0.05 / math.sqrt(3), rel=1e-6)


def test_targets_by_hand(known):
    found = analysis_of(known)
    targets = found["settings"]["s"]["targets"]
    assert targets["best"] == pytest.approx(0.4) and targets["why_none"] is None
    half = targets["at"]["50%"]
    assert half["tau"] == pytest.approx(0.2) and half["apart"] is None
    assert half["arms"]["grpo"]["mean"] == {"steps": 30, "tokens": 3000, "seconds": 60}
    assert half["arms"]["superrl"]["mean"] == {"steps": 20, "tokens": 4000, "seconds": 40}
    assert half["arms"]["sft"]["mean"] == {"steps": 30, "tokens": 0, "seconds": 60}  # 20, 20 and the budget of 50
    assert (half["arms"]["sft"]["reached"], half["arms"]["sft"]["n"]) == (2, 3)
    ratios = found["ratios"]["superrl"]["50%"]
    assert {unit: one["ratio"] for unit, one in ratios.items()} == pytest.approx(
        {"steps": 2 / 3, "tokens": 4 / 3, "seconds": 2 / 3}
    )


def test_the_csv_has_one_row_a_run(known):
    analyse(known)
    assert json.loads((known / "compare.json").read_text()) == analysis_of(known)
    with (known / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and {row["arm"] for row in rows} == set(FINALS)
    (row,) = [row for row in rows if (row["arm"], row["seed"]) == ("sft", "3")]
    wanted = {"setting": "s", "lr": "", "in distribution/final": "0.75", "retention/start": "0.9", "steps": "50",
              "tokens": "0.0", "seconds": "100.0", "kl_from_base": "", "collapsed": "0", "target/50%/reached": "0",
              "target/50%/steps": "50.0", "target/90%/seconds": "100.0", "validation/best": "0.0"}  # fmt: skip
    assert {key: row[key] for key in wanted} == wanted
    (row,) = [row for row in rows if (row["arm"], row["seed"]) == ("grpo", "1")]
    assert (row["lr"], row["target/75%/reached"], row["target/75%/steps"]) == ("0.0005", "1", "40.0")


def test_better_is_said_where_an_interval_says_it_and_nowhere_else(known):
    text = text_of(known)
    said = [line for line in text.splitlines() if "better" in line]
    assert len(said) == 2 and all("minus grpo" in line for line in said)  # at a glance, and in the setting
    assert (
        "| in distribution, minus sft | +0.0 | [-12.4, +12.4] | [-12.4, +12.4] | 1.000 | no difference shown | 16.3 |"
        in text
    )
    assert "| 0.004 | better |  |" in text  # what is shown needs no smallest detectable difference
    assert "| retention, minus grpo | +0.0 | - | - | - | the same in every seed | - |" in text
    assert "| grpo | 41.7 [15.8, 67.5] | 90.0 | 3 | 50 | 5000 | 100 | - | lr 0.0005 |" in text
    assert "Partial" not in text


def test_other_columns_are_secondary(tmp_path):
    write_known(tmp_path, primary="retention")
    found = analysis_of(tmp_path)["settings"]["s"]["differences"]
    assert found["in distribution"]["grpo"]["verdict"] == "higher"
    assert "better" not in text_of(tmp_path)


def test_an_arm_below_the_others_is_said_to_be(tmp_path):
    write_known(tmp_path, treatment="grpo", baseline="superrl")
    assert analysis_of(tmp_path)["settings"]["s"]["differences"]["in distribution"]["superrl"]["verdict"] == "worse"


def test_the_adjusted_interval_decides():
    found = estimate([0.1, 0.2, 0.23])
    assert found.p is not None and found.lo is not None and found.p < 0.05 < 2 * found.p
    alone, one_of_two = (adjust({"a": found}, family)["a"] for family in (1, 2))
    assert verdict_of(found, alone, ("better", "worse")) == "better"
    assert verdict_of(found, one_of_two, ("better", "worse")) == "no difference shown"


def test_an_arm_that_has_not_run_counts_in_the_adjustment(known):
    before = analysis_of(known)["settings"]["s"]["differences"]["in distribution"]["grpo"]
    shutil.rmtree(known / "runs/s/sft")
    after = analysis_of(known)["settings"]["s"]["differences"]["in distribution"]
    assert set(after) == {"grpo"} and after["grpo"] == before and before["p_holm"] == pytest.approx(2 * before["p"])


def test_unfinished_runs_are_named_and_enter_no_number(known):
    (known / "runs/s/grpo/seed-3/summary.json").unlink()
    shutil.rmtree(known / "runs/s/superrl/seed-2")
    metrics = known / "runs/s/sft/seed-1/metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    found = analysis_of(known)
    assert [(run["arm"], run["seed"], run["why"]) for run in found["missing"]] == [
        ("grpo", 3, "unfinished"),
        ("superrl", 2, "not started"),
        ("sft", 1, "metrics.jsonl does not hold the 50 steps of summary.json"),
    ]
    setting = found["settings"]["s"]
    assert setting["arms"]["grpo"]["seeds"] == [1, 2]
    assert setting["arms"]["grpo"]["accuracy"]["in distribution"]["mean"] == pytest.approx(0.475)
    grpo = setting["differences"]["in distribution"]["grpo"]  # seed 1 alone is in both
    assert grpo["by_seed"] == {"1": pytest.approx(0.4)} and grpo["verdict"] == "one seed says nothing"
    text = text_of(known)
    assert text.splitlines()[2] == "**Partial: 3 of 9 runs are missing, and no number below knows of them.**"
    assert "- s, grpo, seed 3: unfinished" in text and "better" not in text


def test_a_run_that_failed_is_told_apart_from_one_that_is_not_done(known):
    (known / "runs/s/sft/seed-2/summary.json").unlink()
    (known / "runs/s/sft/seed-2/failed.json").write_text('{"why": "weights are not finite"}')
    found = analysis_of(known)
    assert found["missing"][0]["why"] == "failed: weights are not finite" and "failed for good: 1;" in found["notes"][0]
    assert found["settings"]["s"]["arms"]["sft"]["stability"]["failed"] == [2]
    assert "| 0/2, 1 failed |" in text_of(known)
    (known / "runs/s/sft/seed-2/summary.json").write_text('{"steps": 50}')  # it failed once, and then it did not
    assert analysis_of(known)["missing"] == []


def test_borrowed_tuning_is_noted(known):
    plan = yaml.safe_load((known / "comparison.yaml").read_text())
    plan["settings"]["s"]["tuned_in"] = "other"
    (known / "comparison.yaml").write_text(yaml.safe_dump(plan))
    assert "tuned in other" in analysis_of(known)["notes"][0]


def test_a_comparison_that_has_just_begun_is_reported(tmp_path):
    write_plan(tmp_path, {"s": COLUMNS}, ["grpo", "superrl"], [1, 2])
    assert analyse(tmp_path) == tmp_path / "compare.md"
    found = json.loads((tmp_path / "compare.json").read_text())
    assert len(found["missing"]) == 4 and found["settings"]["s"]["arms"] == {}
    assert "No run has finished." in (tmp_path / "compare.md").read_text()
    assert (tmp_path / "compare.csv").read_text() == "" and not list(tmp_path.glob("*.png"))


LOOKS = ("imitation", "passes", "weights")


def test_a_comparison_of_before_has_nulls_where_nothing_was_looked_at(known):
    found = analysis_of(known)["settings"]["s"]
    assert {key: found[key] for key in LOOKS} == dict.fromkeys(LOOKS)
    row = analysis_of(known)["runs"][0]
    assert row["demonstrations/trained/nll"] is None and row["pass@16"] is None
    before = json.loads((FIRST / "compare.json").read_text())
    assert not set(LOOKS) & set(before["settings"]["chain-a"])
    assert (
        markdown(before, [(caption, name) for name, caption, _ in PICTURES[:3]]) == (FIRST / "compare.md").read_text()
    )
    assert len(read(FIRST).missing) == 140 and set(analysis_of(FIRST)["settings"]) == set(before["settings"])


def test_what_was_looked_at_stands_in_tables_json_and_csv(known):
    for seed, nll in ((1, 0.5), (2, 0.7)):
        likeness = {"trained": (nll, 0.75, 0.5), "held_out": (nll + 0.25, None, 0.25)}
        write_looks(known / f"runs/s/superrl/seed-{seed}", likeness=likeness, correct=[2, 0], samples=2)
    write_looks(known / "base/s", likeness={"trained": (1.75, None, 0.0)}, correct=[1, 1], samples=2)
    rows = [run for run in analysis_of(known)["runs"] if run["arm"] == "superrl"]
    found = analysis_of(known)["settings"]["s"]
    assert set(found["imitation"]["arms"]) == {"superrl"} == set(found["passes"]["arms"])
    text = text_of(known)
    assert "| base | 1.750 | - | - | - | - | 0.0 | - |" in text
    half = 12.7062047 * 0.1
    row = (f"| superrl | 0.600 [0.000, {0.6 + half:.3f}] (2 seeds) | 0.850 [0.000, {0.85 + half:.3f}] (2 seeds) | "
           "0.250 (2 seeds) | 0.750 (2 seeds) | - | 50.0 (2 seeds) | 25.0 (2 seeds) |")  # fmt: skip
    assert row in text
    assert "| base | 50.0 | 100.0 |  |  |  |" in text
    assert "| superrl | 50.0 | 50.0 | k = 1 | 0.0 | 50.0 |" in text and "- pass@k: unbiased" in text
    for seed in (1, 2):
        write_looks(known / f"runs/s/superrl/seed-{seed}", correct=[0, 0], samples=2)
    write_looks(known / "base/s", correct=[0, 0], samples=2)
    assert "| superrl | 0.0 | 0.0 | - | 0.0 | 0.0 |" in text_of(known), "nothing is met where nobody solves anything"
    assert "Stream weights" not in text
    first, _, third = rows
    assert (first["demonstrations/held_out/nll"], first["pass@2"], first["pass@4"]) == (0.75, 0.5, None)
    assert third["demonstrations/held_out/nll"] is None and third["pass@1"] is None


def test_what_could_not_be_measured_is_null_and_what_cannot_be_read_is_said(known):
    run = known / "runs/s/superrl/seed-1"
    for name in ("kl", "imitation", "passes"):
        (run / f"{name}.json").write_text('{"asked": {"samples": 4}, "why": "the checkpoint is gone"}')
    assert analysis_of(known)["settings"]["s"]["passes"] is None and read(known).missing == ()
    (known / "base/s").mkdir(parents=True)
    (known / "base/s/passes.json").write_text("{")
    with pytest.raises(UserError, match="base/s holds a file that cannot be read"):
        read(known)


def test_weights_of_the_streams_by_hand(known):
    assert "stream-weights" not in [name for _, name in draw(read(known), analysis_of(known))]
    for seed, first in ((1, 1.0), (2, 0.5)):
        shutil.rmtree(known / f"runs/s/superrl/seed-{seed}")
        tests = {"test:near": (0.0, 0.9), "test:old": (0.9, 0.9)}
        pg = [None, first, *[0.25] * 48]
        weights = {"pg": pg, "pg_without_data": [1.0] * 50, "sft": [None] * 50}
        write_run(known / f"runs/s/superrl/seed-{seed}", FAST, tests, weights=weights)
    results, found = read(known), analysis_of(known)
    assert results.of("s", "superrl")[0].weights["pg"] == (None, 1.0, *[0.25] * 48)
    assert "sft" not in results.of("s", "superrl")[0].weights, "a stream that has none has none"
    assert found["settings"]["s"]["weights"] == {
        "superrl": {"pg": {"first": 0.75, "last": 0.25}, "pg_without_data": {"first": 1.0, "last": 1.0}}
    }
    assert "| arm | pg | pg without data |\n| --- | ---: | ---: |\n| superrl | 0.75 to 0.25 | 1 to 1 |" in text_of(
        known
    )
    assert "stream-weights" in [name for _, name in draw(results, found)]


@pytest.mark.parametrize("clock, seconds", [("wall", 100.0), ("cpu", 150.0)])
def test_the_plan_names_the_clock(tmp_path, clock, seconds):
    write_plan(tmp_path, {"s": COLUMNS}, ["grpo", "superrl"], [1, 2], seconds=clock)
    tests = {"test:near": (0.0, 0.5), "test:old": (0.9, 0.9)}
    write_run(tmp_path / "runs/s/grpo/seed-1", RISING, tests, wall=2.0, cpu=3.0)
    write_run(tmp_path / "runs/s/superrl/seed-1", RISING, tests, wall=2.0)
    write_run(tmp_path / "runs/s/superrl/seed-2", RISING, tests, wall=2.0, cpu=3.0)
    found = analysis_of(tmp_path)
    assert found["settings"]["s"]["arms"]["grpo"]["cost"]["seconds"] == seconds
    other = found["settings"]["s"]["arms"]["superrl"]["cost"]["seconds"]
    assert other == (100.0 if clock == "wall" else None)  # neither the other clock, nor seed 2 alone
    assert len(found["notes"]) == (clock == "cpu")


def test_runs_that_do_not_start_alike_are_noted(known):
    shutil.rmtree(known / "runs/s/grpo/seed-1")
    tests = {"test:near": (0.1, 0.5), "test:old": (0.9, 0.9)}
    write_run(known / "runs/s/grpo/seed-1", RISING, tests)
    assert "do not all start from the same accuracy (0.0 to 10.0 %)" in analysis_of(known)["notes"][0]


def test_a_column_that_was_not_evaluated_makes_a_run_missing(known):
    shutil.rmtree(known / "runs/s/grpo/seed-1")
    write_run(known / "runs/s/grpo/seed-1", RISING, {"test:near": (0.0, 0.5)})
    assert read(known).missing == (Missing("s", "grpo", 1, "no test evaluation of test:old (retention)"),)


def test_a_torn_file_makes_a_run_missing(known):
    (known / "runs/s/grpo/seed-1/metrics.jsonl").write_text("{nonsense}\n")
    (missing,) = read(known).missing
    assert missing.seed == 1 and "cannot be read" in missing.why


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"baseline": "ppo"}, "ppo is no arm of this comparison"),
        ({"seconds": "days"}, "wall or cpu"),
        ({"primary": "beauty"}, "has no column 'beauty'"),
        ({"settings": [1]}, "is not a plan as `superrl compare` writes it"),
        ({"seeds": ["one"]}, "is not a plan as `superrl compare` writes it"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(known, change, sentence):
    plan = yaml.safe_load((known / "comparison.yaml").read_text())
    (known / "comparison.yaml").write_text(yaml.safe_dump(plan | change))
    with pytest.raises(UserError, match=sentence):
        analyse(known)


def test_a_folder_without_a_comparison_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no comparison\.yaml"):
        analyse(tmp_path)
    write_known(tmp_path)
    (tmp_path / "chosen.json").write_text('{"s": {"grpo": {}}}')
    with pytest.raises(UserError, match=r"chosen\.json"):
        analyse(tmp_path)


def curve(*points):
    return [Point(step, accuracy, ci95) for step, (accuracy, ci95) in enumerate(points)]


def test_drawdown_and_collapse_by_hand():
    rise_and_fall = curve((0.1, None), (0.6, None), (0.5, None), (0.7, None), (0.4, None))
    assert drawdown(rise_and_fall) == pytest.approx(0.3) and collapsed(rise_and_fall) is False
    assert collapsed(curve((0.5, None), (0.4, None))) and collapsed(curve((0.0, None), (0.8, None), (0.3, None)))
    # One problem of a hundred is no collapse: the interval reaches above the start.
    assert collapsed(curve((0.02, (0.006, 0.07)), (0.0, (0.0, 0.037)))) is False
    assert collapsed(curve((0.5, (0.4, 0.6)), (0.0, (0.0, 0.037)))) is True
    assert drawdown([]) is None and collapsed([]) is None and drawdown(curve((0.2, None), (0.3, None))) == 0


def test_the_usable_band_takes_the_best_split_of_a_rate_and_the_mean_over_seeds():
    def trial(rate, split, seed, value):
        return Trial({"lr": rate, "split": split}, seed, value)

    trials = (trial(1.0, 0.2, 1, 0.2), trial(1.0, 0.5, 1, 0.46), trial(2.0, 0.2, 1, 0.6), trial(2.0, 0.2, 2, 0.4),
              trial(4.0, 0.2, 1, 0.44), trial(8.0, 0.2, 1, 0.9), trial(8.0, 0.2, 2, None))  # fmt: skip
    assert usable_band(trials) == (1.0, 2.0)
    assert usable_band([]) is None and usable_band([trial(1.0, 0.2, 1, 0.0)]) is None


def test_numbers_and_cells_that_fit_a_table():
    assert [count(x) for x in (None, 0.0, 20 / 3, 100.0, 8_312.0, 12_350.0, 1_100_000.0, 2.5e9)] == [
        "-", "0", "6.7", "100", "8312", "12.3k", "1.1M", "2.5G",
    ]  # fmt: skip
    assert table(["a|b", "c"], [["d", "e"]]) == "| a\\|b | c |\n| --- | ---: |\n| d | e |"


def test_every_arm_has_its_colour_whatever_the_others_are():
    alone, together = looks(["grpo"]), looks(["mine", "grpo", "yours", *ARMS])
    assert alone["grpo"] == together["grpo"] and set(ARMS) == set(LOOK)
    assert len(set(together.values())) == len(together)


def test_pictures_are_drawn_and_repeat_to_the_byte(tmp_path):
    seeds = [1, 2]
    write_lifelike(tmp_path, ["chain-a"], seeds)
    analyse(tmp_path)
    names = ("learning-curves", "differences", "frontier", "pass-at-k", "stream-weights")
    pictures = [tmp_path / f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures}
    for path in pictures:
        path.unlink()
    analyse(tmp_path)
    assert before == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures}
    text = (tmp_path / "compare.md").read_text()
    assert all(f"]({name}.png)" in text and f"({name}.svg)" in text for name in names)
    assert int.from_bytes((tmp_path / "differences.png").read_bytes()[16:20], "big") == 1800  # two pixels for one


def test_without_retention_there_is_no_frontier_and_without_kl_there_is(known):
    analyse(known)
    assert (known / "frontier.png").is_file()
    plan = yaml.safe_load((known / "comparison.yaml").read_text())
    plan["settings"]["s"]["columns"] = {"in distribution": "test:near"}
    (known / "comparison.yaml").write_text(yaml.safe_dump(plan))
    (known / "frontier.png").unlink()
    assert "frontier" not in analyse(known).read_text() and not (known / "frontier.png").exists()


@pytest.mark.parametrize("library", ["scipy", "matplotlib"])
def test_a_library_that_is_not_there_is_named_with_its_extra(known, library):
    code = (
        f"import sys; sys.modules[{library!r}] = None\nfrom pathlib import Path\n"
        f"from superrl.comparison.report import analyse\nanalyse(Path({str(known)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert "UserError" in last and library in last and "pip install 'superrl[compare]'" in last


def test_reading_and_reporting_load_no_torch():
    code = "import superrl.comparison.report, sys; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
