"""The learner on 1, 2 and 4 ranks: one gradient, one update, one checkpoint, replicated or split.

Recorded rollouts, float32. The bounds are those the design promises: gradients to 1e-5 of their norm before the
optimizer, weights after five AdamW steps at lr 1e-3 to 1e-3 of the update.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import VOCABULARY, group, sample, tiny_llama
from ranks import in_world, on_ranks
from superrl import persistence
from superrl.checkpoint import Checkpoint, newest
from superrl.config import OptimizerConfig
from superrl.learner.learner import Learner, Schedule
from superrl.learner.sharding import whole
from superrl.learner.shares import cuts, divided
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.parallel import ALONE
from superrl.position import Position
from superrl.runfolder import RunFolder, Unwritten

LIMITS = Limits(group_size=4, max_new_tokens=10)
METHODS = {
    "superrl": {"name": "superrl", "demonstration": "all"},
    "reference": {"name": "grpo", "kl": {"in": "loss", "coefficient": 0.1}},
    "separate": {"name": "superrl", "sft": {"separate_state": True, "weight": 0.5}},
}
STEPS = 5


def batch():
    """Groups that fall back and groups that do not, of unequal length."""
    return [
        group([0] * 4, experts=[5, 3], name="a"),
        group([1, 0, 0, 1], lengths=[1, 2, 9, 4], name="b"),
        group([0, 1, 0, 0], lengths=[3, 3, 1, 8], experts=[6], name="c"),
        group([0.2, 0.1, 0.0, 0.3], correct=[False] * 4, experts=[2], name="d"),
        group([1, 0, 1, 1], lengths=[30, 2, 2, 2], name="e"),
    ]


def learner(world, strategy, max_tokens=40, **changes):
    settings = {"optimizer": OptimizerConfig(lr=1e-3), "steps": 10, "epochs": 1, "mini_batches": 1, "seed": 0}
    schedule = Schedule(**{**settings, "max_tokens_per_pack": max_tokens, **changes})
    one = Learner(tiny_llama(), torch.float32, schedule, world=world)
    if strategy == "shard" and not world.alone:
        one.split()
    return one


def flat(tensors):
    return torch.cat([whole(one).flatten() for one in tensors]).double()


def trained(world, strategy, name, steps=STEPS, changes=None):
    """The first gradient, the metrics of every step, and the update after them all."""
    one, method = learner(world, strategy, **(changes or {})), build(METHODS[name], LIMITS)
    one.begin(one.schedule, method.critic, "logp_ref" in method.needs)
    start, gradients, told = flat(p.detach().clone() for _, p in one.trainable()), [], []
    apply = one._apply

    def caught(update, means):
        if not gradients:
            gradients.append(flat(p.grad for _, p in one.trainable()))
        apply(update, means)

    one._apply = caught
    for step in range(steps):
        groups = one.annotate(batch(), method.needs)
        means = one.step(method.plan(groups, {}).updates, method, version=step)
        told.append({key: (mean.total, mean.count) for key, mean in means.means.items()})
    drift = one.drift([t for g in batch() for t in g.trajectories])
    return gradients[0], told, flat(p.detach() for _, p in one.trainable()) - start, drift


@lru_cache
def alone(name, steps=STEPS, changes=()):
    return trained(ALONE, "replicate", name, steps, dict(changes))


def distance(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(
    ("size", "strategy", "name"),
    [
        (2, "replicate", "superrl"),
        (4, "replicate", "reference"),
        (2, "replicate", "separate"),
        (2, "shard", "reference"),
        (4, "shard", "superrl"),
    ],
)
def test_ranks_learn_what_one_learns(size, strategy, name):
    gradient, told, update, drift = alone(name)
    assert float(gradient.norm()) > 0.1 and float(update.norm()) > 0.01
    found = on_ranks(size, in_world, trained, strategy, name)
    for theirs, metrics, moved, kl in found:
        assert distance(theirs, gradient) <= 1e-5
        assert distance(moved, update) <= 1e-3
        assert metrics == found[0][1], "ranks must tell the same"
        torch.testing.assert_close(torch.tensor(kl), torch.tensor(drift), rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(told, found[0][1], strict=True):
        assert mine.keys() == theirs.keys()
        for key, (total, count) in mine.items():
            if key == "tokens/computed":  # what two ranks share, both compute
                assert theirs[key][0] >= total
                continue
            summed = key.startswith("tokens/")
            assert theirs[key][0] == pytest.approx(total, rel=1e-4, abs=1e-6), key
            assert summed or theirs[key][1] == count, key
    print(
        f"{size} ranks, {strategy}, {name}: gradient {max(distance(one[0], gradient) for one in found):.1e}, "
        f"update after {STEPS} steps {max(distance(one[2], update) for one in found):.1e}"
    )


def test_mini_batches_and_streams_agree_too():
    changes = (("mini_batches", 2), ("epochs", 2), ("streams_every", 1))
    gradient, told, update, _ = alone("superrl", 2, changes)
    for strategy in ("replicate", "shard"):
        theirs, metrics, moved, _ = on_ranks(2, in_world, trained, strategy, "superrl", 2, dict(changes))[0]
        assert distance(theirs, gradient) <= 1e-5 and distance(moved, update) <= 1e-3
        assert any(key.startswith("streams/share") for key in metrics[0])
        for key, (total, _) in told[1].items():
            if key != "tokens/computed":
                assert metrics[1][key][0] == pytest.approx(total, rel=1e-3, abs=1e-5), key


def test_one_sample_for_four_ranks():
    """Three ranks have nothing to do; split, they still take part in every forward."""
    update = build(METHODS["superrl"], LIMITS).plan(batch()[:1], {}).updates[0]
    few = replace(update, samples=update.samples[:1])
    one = learner(ALONE, "replicate")
    one.step([few], build(METHODS["superrl"], LIMITS), version=0)
    expected = flat(p.detach() for _, p in one.trainable())
    for strategy in ("replicate", "shard"):
        for found in on_ranks(4, in_world, _one_step, strategy, few):
            assert distance(found, expected) <= 1e-6


def _one_step(world, strategy, update):
    one = learner(world, strategy)
    one.step([update], build(METHODS["superrl"], LIMITS), version=0)
    return flat(p.detach() for _, p in one.trainable())


def saved(world, strategy, folder, steps):
    """Some steps, then a checkpoint."""
    one, method = learner(world, strategy), build(METHODS["separate"], LIMITS)
    for step in range(steps):
        one.step(method.plan(batch(), {}).updates, method, version=step)
    tokenizer = _Tokenizer()
    if world.rank == 0:
        persistence.save(RunFolder(folder), one, tokenizer, Position(step=steps, stage_step=steps), "digest", 2)
    elif one.is_split:
        persistence.hand_over(one)
    return None


class _Tokenizer:
    """Only saved."""

    def save_pretrained(self, path):
        (path / "tokenizer.json").write_text("{}")


def resumed(world, strategy, folder, steps):
    """The weights after the steps that follow a checkpoint."""
    one, method = learner(world, strategy), build(METHODS["separate"], LIMITS)
    found = newest(folder / "checkpoints", print)
    assert isinstance(found, Checkpoint)
    persistence.load_weights(one, found.path)
    persistence.load_trainer(one, found)
    for step in range(found.step, found.step + steps):
        one.step(method.plan(batch(), {}).updates, method, version=step)
    return flat(p.detach() for _, p in one.trainable())


@pytest.mark.parametrize("writer", [(2, "shard"), (1, "replicate"), (2, "replicate")], ids=str)
def test_a_checkpoint_loads_at_another_world_size(writer, tmp_path):
    size, strategy = writer
    start = flat(p.detach() for _, p in learner(ALONE, "replicate").trainable())
    (tmp_path / "whole").mkdir()
    saved(ALONE, "replicate", tmp_path / "whole", 3)
    expected = resumed(ALONE, "replicate", tmp_path / "whole", 2)
    folder = tmp_path / "theirs"
    folder.mkdir()
    if size == 1:
        saved(ALONE, strategy, folder, 3)
    else:
        assert on_ranks(size, in_world, saved, strategy, folder, 3) == [None] * size
    assert (folder / "checkpoints" / "step-00000003" / "optimizer").is_dir() == (strategy == "shard")
    readers = [(1, "replicate"), (4, "shard"), (2, "replicate")] if strategy == "shard" else [(3 - size, "shard")]
    for ranks, how in readers:
        found = [resumed(ALONE, how, folder, 2)] if ranks == 1 else on_ranks(ranks, in_world, resumed, how, folder, 2)
        for one in found:
            assert distance(one - start, expected - start) <= 1e-3, (writer, ranks, how)


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    folder = Unwritten(tmp_path)
    folder.append("metrics.jsonl", {"step": 1})
    folder.write_summary({})
    assert list(tmp_path.iterdir()) == [] and folder.lengths() == {}


# Who computes what


@given(st.lists(st.tuples(st.integers(2, 40), st.integers(0, 3)), max_size=12), st.integers(1, 4))
def test_every_sequence_has_one_rank(shapes, ranks):
    sequences = [sample(length, 1, seed=seed) for length, seed in shapes]
    found = divided(sequences, ranks, 32)
    assert len(found) == ranks
    assert sorted(i for share in found for i in share) == list(range(len(sequences)))


def test_groups_stay_whole_and_work_is_even():
    def rollout(prompt, answer):
        one = sample(40, 20, seed=answer)
        tokens = (*[prompt] * 20, *one.tokens[20:])
        return replace(one, tokens=tokens)

    sequences = [rollout(prompt, answer) for answer in range(4) for prompt in range(1, 9)]
    found = divided(sequences, 4, 32)
    assert [sorted({sequences[i].tokens[0] for i in share}) for share in found] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert all(0 < token < VOCABULARY for one in sequences for token in one.tokens)


@given(
    st.lists(st.tuples(st.floats(0.0, 9.0), st.integers(0, 5)), max_size=20),
    st.integers(1, 5),
)
def test_cuts_are_in_order_and_near_balance(items, parts):
    costs, common = [cost for cost, _ in items], [shared for _, shared in items]
    bounds = cuts(costs, common, parts)
    assert len(bounds) == parts + 1 and bounds[0] == 0 and bounds[-1] == len(costs) and bounds == sorted(bounds)
    largest = max((sum(costs[a:b]) for a, b in pairwise(bounds)), default=0.0)
    assert largest <= 1.2 * sum(costs) / parts + 2 * max(costs, default=0.0)
