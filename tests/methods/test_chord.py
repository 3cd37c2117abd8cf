"""CHORD: mu's schedule, the formula written out for both variants, the truth table, and any split."""

import json
from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relatives import CASES, agree, batch, check_any_split, decided, method
from superrl.methods.chord import ChordOptions, balance
from superrl.records import StepRecord

PHI = {"peak": 0.1, "valley": 0.1, "imitation": "phi"}
BESIDE, TWO, IMITATED, NOTHING = (
    ("both", {"pg": 4, "sft": 1}), ("both", {"pg": 2, "sft": 1}), ("sft", {"sft": 1}), ("none", {})
)  # fmt: skip
TABLE = {
    "all fail": IMITATED,
    "one right": BESIDE,
    "all right": IMITATED,
    "all fail, no demonstration": NOTHING,
    "rewards in {-1, 1}, all fail": IMITATED,
    "rewards in {-1, 1}, one right": BESIDE,
    "shaping on failures": TWO,
    "equal shaping on failures": IMITATED,
    "two have the mean reward": TWO,
    "all fail, a wrong demonstration": IMITATED,  # kept only where the recipe keeps unverified ones
}


@pytest.mark.parametrize("case", CASES)
def test_truth_table(case):
    assert decided(method("chord"), case) == TABLE[case]


def formula(groups, read, mu, phi):
    """(1 - mu) GRPO + mu SFT: a mean over sequences of means over tokens, and a mean over the experts' tokens."""
    rl, n = 0.0, 0
    for one in groups:
        values = [t.score.value for t in one.trajectories]
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
        rl += sum(read(t).clipped((t.score.value - mean) / (std + 1e-4)).mean() for t in one.trajectories)
        n += len(values)
    rows = [read(expert) for one in groups for expert in one.demonstrations]
    weights = [(row.p * (1 - row.p)).detach() if phi else 1.0 for row in rows]
    sft = sum((-w * row.logp).sum() for w, row in zip(weights, rows, strict=True)) / sum(len(r.logp) for r in rows)
    return (1 - mu) * rl / n + mu * sft


@pytest.mark.parametrize(("options", "step", "mu"), [({}, 0, 0.9), ({}, 100, 0.475), ({}, 500, 0.05), (PHI, 7, 0.1)])
def test_the_loss_is_the_published_one(options, step, mu):
    chord, groups = method("chord", **options), batch()
    plan = chord.plan(groups, {"step": step})
    assert plan.metrics == pytest.approx({"weight/pg": 1 - mu, "weight/sft": mu})
    agree(chord, plan, lambda read: [formula(groups, read, mu, "imitation" in options)])


@pytest.mark.parametrize("options", [{}, PHI])
def test_any_split(options):
    chord = method("chord", **options)
    check_any_split(chord, chord.plan(batch(), {"step": 3}))


def test_mu_rises_linearly_and_falls_along_a_cosine():
    options = ChordOptions(peak=0.8, valley=0.2, warmup_steps=4, decay_steps=8)
    found = [balance(options, step) for step in (0, 1, 2, 4, 6, 8, 12, 100)]
    assert found == pytest.approx([0.0, 0.2, 0.4, 0.8, 0.5 + 0.3 * cos(pi / 4), 0.5, 0.2, 0.2])


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5), st.integers(0, 9), st.integers(0, 20))
def test_mu_stays_a_share_and_is_monotone_after_the_warm_up(peak, valley, warmup, decay, step):
    options = ChordOptions(peak=peak, valley=valley, warmup_steps=warmup, decay_steps=decay)
    now, after = balance(options, step), balance(options, step + 1)
    assert -1e-12 <= now <= max(peak, valley) + 1e-12
    if step >= warmup:
        assert (after - now) * (valley - peak) >= -1e-12


def test_nothing_is_imitated_while_mu_is_zero():
    chord = method("chord", warmup_steps=5)
    plan = chord.plan([CASES["all fail"], CASES["one right"]], {"step": 0})
    assert {s.stream for s in plan.updates[0].samples} == {"pg"}
    assert [d.kind for d in plan.decisions] == ["none", "pg"]


def test_state_counts_steps_and_is_json():
    chord = method("chord")
    state = json.loads(json.dumps(chord.initial_state()))
    for step in (1, 2):
        state = chord.after_step(StepRecord(step, {}, ()), [], state)
    assert state == {"step": 2}
    assert chord.plan([CASES["all fail"]], state).metrics["weight/sft"] == pytest.approx(balance(chord.options, 2))


def test_streams_have_denominators_of_their_own():
    (update,) = method("chord").plan(batch(), {"step": 0}).updates
    assert update.denominators == {"pg": (4.0,) * 7, "sft": (5.0, 0.0, 6.0, 2.0, 4.0, 0.0, 3.0)}
