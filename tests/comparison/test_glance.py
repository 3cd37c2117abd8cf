"""What a person sees at the end of a comparison."""

import json
from pathlib import Path

import pytest
from synthetic import write_lifelike

from superrl.comparison import glance
from superrl.comparison.analysis import analyse_results
from superrl.comparison.results import read


def seen(out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    glance.show(analyse_results(read(out)), out)
    return capsys.readouterr().out.splitlines()


def test_every_setting_has_a_table_of_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lifelike(tmp_path, ["near", "far"], [1, 2, 3, 4, 5])
    lines = seen(tmp_path, capsys)
    assert max(map(len, lines[: lines.index("", 3)])) <= 80
    titles = [line for line in lines if "in distribution in %, and superrl minus the arm (Holm-adjusted)" in line]
    assert [title.partition(":")[0] for title in titles] == ["near", "far"]
    found = analyse_results(read(tmp_path))["settings"]["far"]
    difference = found["differences"]["in distribution"]["grpo"]
    (row,) = (line for line in lines[lines.index(titles[1]) :] if line.startswith("grpo "))
    assert row.split()[:4] == [
        "grpo", "5", f"{100 * found['arms']['grpo']['accuracy']['in distribution']['mean']:.1f}",
        f"{100 * difference['mean']:+.1f}",
    ]  # fmt: skip
    assert f"[{100 * difference['lo_holm']:+.1f}, {100 * difference['hi_holm']:+.1f}]" in row
    assert row.rstrip().endswith(difference["verdict"])
    assert not any(line.startswith(("note:", "pictures")) or "missing" in line for line in lines)
    assert f"all of it  {tmp_path}/compare.md" in lines


def test_what_is_missing_and_what_was_not_tuned_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lifelike(tmp_path, ["near"], [1, 2])
    (tmp_path / "learning-curves.png").touch()
    (tmp_path / "runs/near/yoked/seed-1/summary.json").unlink()
    (tmp_path / "runs/near/yoked/seed-2/summary.json").unlink()
    (tmp_path / "runs/near/sft/seed-2/summary.json").unlink()
    (tmp_path / "runs/near/sft/seed-2/failed.json").write_text('{"why": "the weights have diverged"}')
    chosen = json.loads((tmp_path / "chosen.json").read_text())
    untuned = {arm: {"point": {}, "trials": []} for arm in chosen["near"]}
    (tmp_path / "chosen.json").write_text(json.dumps({"near": untuned}))
    lines = seen(tmp_path, capsys)
    at = lines.index("3 of 14 runs are missing:")
    assert lines[at + 1 : at + 3] == [
        "  near, sft, seed 2: failed: the weights have diverged",
        "  near, yoked, seed 1, 2: unfinished",
    ]
    assert "note: no learning rate was tuned: every arm ran at the recipe's own" in lines
    assert f"pictures   {tmp_path}/{{learning-curves.png}}" in lines
    assert not any(line.startswith("yoked") for line in lines), "an arm without a finished run has no row"
