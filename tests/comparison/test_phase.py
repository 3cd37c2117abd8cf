"""The phase diagram: the best baseline by validation and not by test, honest intervals, and a picture that repeats."""

from __future__ import annotations

from pathlib import Path

import pytest

from superrl.comparison.phase import Cell, Sweep, cell, colour, interval, picture, save
from superrl.comparison.results import Point, Run
from superrl.comparison.statistics import claim, estimate
from superrl.errors import UserError

COLUMN = "in distribution"
NAMES = {"superrl": "SuperRL", "sft": "SFT", "grpo": "GRPO"}


def runs(arm: str, test: list[float], validation: list[list[float]]) -> list[Run]:
    """A run for every test accuracy, with its validation curve."""
    return [
        Run(
            setting="s",
            arm=arm,
            seed=seed,
            validation=tuple(Point(10 * i, value, None) for i, value in enumerate(curve)),
            start={COLUMN: 0.0},
            final={COLUMN: final},
            tokens=(1.0,),
            seconds=(1.0,),
            kl=None,
        )
        for seed, (final, curve) in enumerate(zip(test, validation, strict=True))
    ]


OWN = runs("superrl", [0.8, 0.9, 0.7], [[0.1, 0.8]] * 3)


def test_the_best_baseline_is_that_of_validation_though_another_does_better_on_the_test() -> None:
    sft = runs("sft", [0.5, 0.5, 0.6], [[0.0, 0.6]] * 3)
    grpo = runs("grpo", [0.9, 0.9, 0.9], [[0.9, 0.5]] * 3)
    found = cell({"grpo": grpo, "sft": sft, "superrl": OWN}, "superrl", COLUMN)
    assert found.best == "sft"
    assert found.difference == claim([0.8 - 0.5, 0.9 - 0.5, 0.7 - 0.6])
    assert found.validation == pytest.approx({"grpo": 0.5, "sft": 0.6, "superrl": 0.8})
    assert found.accuracy["grpo"].mean == pytest.approx(0.9)


def test_a_tie_goes_to_the_better_curve() -> None:
    early, late = runs("sft", [0.5] * 3, [[0.4, 0.6]] * 3), runs("grpo", [0.5] * 3, [[0.1, 0.6]] * 3)
    assert cell({"grpo": late, "sft": early, "superrl": OWN}, "superrl", COLUMN).best == "sft"
    assert cell({"sft": late, "grpo": early, "superrl": OWN}, "superrl", COLUMN).best == "grpo"


def test_a_cell_with_a_seed_missing_is_refused() -> None:
    two = runs("sft", [0.5, 0.5], [[0.6]] * 2)
    with pytest.raises(UserError, match="the same seeds of all arms, and sft has"):
        cell({"sft": two, "superrl": OWN}, "superrl", COLUMN)
    with pytest.raises(UserError, match=r"has \[\]"):
        cell({"sft": [], "superrl": []}, "superrl", COLUMN)


def made(differences: list[float]) -> Cell:
    """A cell with these differences."""
    accuracy = {arm: estimate([0.5, 0.6, 0.7]) for arm in NAMES}
    return Cell("sft", claim(differences), accuracy, {})


def test_only_an_interval_without_0_is_shown_and_has_a_colour() -> None:
    above, below, not_shown, alike = (
        made(values) for values in ([0.3, 0.31, 0.32], [-0.3, -0.31, -0.32], [0.3, -0.1, 0.1], [0.2, 0.2, 0.2])
    )
    assert [one.shown for one in (above, below, not_shown, alike)] == [True, True, False, False]
    assert colour(not_shown) == colour(alike) == (1.0, 1.0, 1.0)
    assert colour(above)[0] > colour(above)[2] and colour(below)[0] < colour(below)[2]
    assert sum(colour(made([0.5, 0.51, 0.52]))) < sum(colour(above))
    assert interval(above.difference) == "[+28.5, +33.5]"
    assert interval(alike.difference) == "the same in every seed"


def test_the_picture_says_every_cell_and_repeats_to_the_byte(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cells = {("0", "all"): made([0.3, 0.31, 0.32]), ("high", "all"): made([0.3, -0.1, 0.1])}
    sweep = Sweep("Wrong demonstrations", "share", {"0 %": made([0.3, 0.31, 0.32]), "50 %": made([0.2, 0.2, 0.2])})
    for name in ("one", "two"):
        figure = picture(cells, NAMES, ("demonstrated", "pass@8"), [sweep])
        save(figure, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").stat().st_size > 10_000
    heat, panel = figure.axes
    texts = [text.get_text() for text in heat.texts]
    assert {"+31.0", "[+28.5, +33.5]", "not shown", "SuperRL 60 %, SFT 60 %"} <= set(texts)
    assert texts.count("not shown") == 1
    assert [tick.get_text().split("\n")[0] for tick in panel.get_xticklabels()] == ["0 %", "50 %"]
    assert panel.get_xticklabels()[1].get_text().endswith("not shown")
