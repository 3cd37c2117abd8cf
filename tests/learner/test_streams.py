"""Each stream's part in an optimizer step: by hand, against separate gradients, and without touching the step."""

import math
from dataclasses import replace

import pytest
import torch

from builders import flat_gradient, group, tiny_llama
from superrl.config import OptimizerConfig
from superrl.learner.learner import Learner, Schedule
from superrl.learner.streams import describe_streams
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.records import Update

LIMITS = Limits(group_size=4, max_new_tokens=10)


def test_norms_shares_and_cosines_by_hand():
    gradients = {
        "pg": [torch.tensor([3.0, 0.0]), torch.tensor([4.0])],
        "sft": [torch.tensor([0.0, 1.0]), torch.zeros(1)],
    }
    found = describe_streams(gradients, [torch.tensor([3.0, 0.5]), torch.tensor([2.0])])
    # updates: pg (1, 0, 2), sft (0, 2, 0); their sum (1, 2, 2) has the square 9
    assert found == pytest.approx(
        {
            "grad_norm/pg": 5.0,
            "grad_norm/sft": 1.0,
            "share/pg": 5 / 9,
            "share/sft": 4 / 9,
            "cosine": 0.0,
            "update_cosine": 0.0,
        }
    )


def test_one_stream_alone_owns_the_step_and_nothing_is_divided_by_zero():
    found = describe_streams({"pg": [torch.tensor([2.0])]}, [torch.tensor([4.0])])
    assert found == {"grad_norm/pg": 2.0, "share/pg": 1.0}
    still = describe_streams({"pg": [torch.zeros(1)], "sft": [torch.zeros(1)]}, [torch.ones(1)])
    assert still == {"grad_norm/pg": 0.0, "grad_norm/sft": 0.0}


def test_a_stream_that_is_pulled_against_has_a_negative_share():
    found = describe_streams({"pg": [torch.tensor([3.0])], "sft": [torch.tensor([-1.0])]}, [torch.ones(1)])
    assert found["share/sft"] == pytest.approx(-0.5) and found["share/pg"] == pytest.approx(1.5)
    assert found["cosine"] == pytest.approx(-1.0)


def test_of_more_than_two_streams_every_pair_has_its_cosine_and_pg_and_sft_keep_theirs():
    gradients = {
        "pg": [torch.tensor([1.0, 0.0])],
        "sft": [torch.tensor([1.0, 1.0])],
        "value": [torch.tensor([0.0, 2.0])],
    }
    found = describe_streams(gradients, [torch.ones(2)])
    cosines = {name: value for name, value in found.items() if name.startswith("cosine")}
    half = 0.5**0.5
    assert cosines == pytest.approx({"cosine": half, "cosine/pg-value": 0.0, "cosine/sft-value": half})
    assert {name.replace("cosine", "update_cosine") for name in cosines} <= found.keys()
    assert sum(found[f"share/{name}"] for name in gradients) == pytest.approx(1.0)


def learner(every, *, max_tokens=10_000, **schedule):
    settings = {"steps": 10, "epochs": 1, "mini_batches": 1, "max_tokens_per_pack": max_tokens, "seed": 0, **schedule}
    return Learner(tiny_llama(), torch.float32, Schedule(OptimizerConfig(lr=1e-3), streams_every=every, **settings))


def planned(options=None):
    method = build({"name": "superrl", **(options or {})}, LIMITS)
    batch = [
        group([0] * 4, experts=[5], name="a"),
        group([1, 0, 0, 1], name="b"),
        group([0] * 4, experts=[3], name="c"),
    ]
    return method, method.plan(batch, {}).updates


def alone(update, stream):
    """The gradient of one stream under the same denominator."""
    method, _ = planned()
    one = learner(0)
    caught = []

    class Spy:
        def step(self, lr):
            caught.append(flat_gradient(one.model))
            return 1.0

    one.optimizers["main"] = Spy()
    samples = tuple(s for s in update.samples if s.stream == stream)
    one.step([Update(samples, update.denominators, update.stream_weights)], method, 0)
    return caught[0].double()


@pytest.mark.parametrize("max_tokens", [10_000, 12])
def test_a_step_says_what_separate_gradients_say(max_tokens):
    method, updates = planned({"sft": {"weight": 0.5}})
    means = learner(1, max_tokens=max_tokens).step(updates, method, 0)
    pg, sft = (alone(updates[0], stream) for stream in ("pg", "sft"))
    scale = (pg + sft) / max(1.0, float((pg + sft).norm()))  # what Adam saw: clipped; after one step its root is |g|
    ups = {"pg": pg / (scale.abs() + 1e-8), "sft": sft / (scale.abs() + 1e-8)}
    whole = ups["pg"] + ups["sft"]
    for name, gradient in (("pg", pg), ("sft", sft)):
        assert means.value(f"streams/grad_norm/{name}") == pytest.approx(float(gradient.norm()), rel=1e-4)
        share = float((ups[name] * whole).sum() / (whole * whole).sum())
        assert means.value(f"streams/share/{name}") == pytest.approx(share, rel=1e-2)
    assert means.value("streams/cosine") == pytest.approx(float(pg @ sft / pg.norm() / sft.norm()), rel=1e-3)
    assert means.value("streams/share/pg") + means.value("streams/share/sft") == pytest.approx(1.0)


def test_looking_changes_no_bit_of_the_step_nor_of_its_metrics():
    outcomes = []
    for every in (0, 1):
        method, updates = planned()
        one = learner(every, mini_batches=2, epochs=2)
        means = one.step(updates, method, 0)
        told = {name: mean.value for name, mean in means.means.items() if not name.startswith("streams/")}
        outcomes.append((told, torch.cat([p.detach().flatten() for p in one.model.parameters()])))
    assert outcomes[0][0] == outcomes[1][0] and torch.equal(outcomes[0][1], outcomes[1][1])


def test_only_every_so_many_steps_and_every_update_of_them():
    method, updates = planned({"sft": {"separate_state": True}})
    one = learner(2)
    looked = [one.step(updates, method, 0) for _ in range(3)]
    assert [means.value("streams/grad_norm/sft") is not None for means in looked] == [True, False, True]
    assert looked[0].value("streams/grad_norm/pg") is not None
    assert looked[0].value("streams/share/sft") == 1.0  # an update of its own


def test_a_refused_step_says_nothing():
    method, updates = planned()
    poisoned = replace(updates[0], samples=tuple(replace(s, weight=math.inf) for s in updates[0].samples))
    means = learner(1).step([poisoned], method, 0)
    assert not any(name.startswith("streams/") for name in means.means)
