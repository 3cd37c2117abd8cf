"""Which optimizer steps an update makes, what a ratio is taken against, and what a view says of missing annotations."""

from dataclasses import replace

import pytest
import torch

from builders import sample, tiny_llama
from superrl.config import OptimizerConfig
from superrl.learner.learner import Learner, Schedule
from superrl.methods.hooks import Limits, Method
from superrl.packing import rows
from superrl.records import Update


class Listening(Method):
    """-ratio A everywhere; keeps every view it is shown."""

    def __init__(self):
        super().__init__(Method.Options(), Limits(group_size=2, max_new_tokens=10))
        self.views = []

    def token_loss(self, view):
        self.views.append(view)
        return -(view.logp - view.logp_old).exp() * view.advantage


def learner(*, epochs=1, mini_batches=1, packer=None):
    schedule = Schedule(OptimizerConfig(lr=1e-2), 10, epochs, mini_batches, 10_000, seed=0)
    return Learner(tiny_llama(), torch.float32, schedule, packer)


def weights(one):
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


def lessons(**changes):
    samples = tuple(sample(8, 4, group=g, seed=g, advantage=1.0 - 0.7 * g) for g in range(3))
    return Update(samples, {"pg": (1.0, 2.0, 1.0)}, **changes)


def test_a_whole_update_is_one_optimizer_step_whatever_the_passes():
    many, once = learner(epochs=3, mini_batches=2), learner()
    for one in (many, once):
        one.step([lessons(whole=True)], Listening(), version=0)
        assert one.progress.updates == 1
    assert torch.equal(weights(many), weights(once))
    parts = learner(epochs=3, mini_batches=2)
    parts.step([lessons()], Listening(), version=0)
    assert parts.progress.updates == 6


def test_a_whole_update_alone_costs_no_second_forward():
    packed = []

    def counting(sequences, max_tokens):
        packed.append(len(sequences))
        return rows.pack(sequences, max_tokens)

    learner(epochs=3, packer=counting).step([lessons(whole=True)], Listening(), version=0)
    assert [n for n in packed if n] == [3]


def test_a_whole_update_beside_others():
    one = learner(mini_batches=3)
    one.step([lessons(), lessons(whole=True)], Listening(), version=0)
    assert one.progress.updates == 4


def streams(*, version=0):
    """A rollout, a demonstration in each of three streams, and a rollout of an older version."""
    rollout = replace(sample(8, 4, seed=1), version=version)
    expert = replace(sample(8, 4, seed=2), origin="expert")
    stale = replace(sample(8, 4, seed=3), version=version - 1)
    samples = (rollout, replace(expert, stream="expert"), replace(expert, stream="sft"),
               replace(rollout, stream="value"), stale)  # fmt: skip
    return Update(samples, dict.fromkeys(("pg", "expert", "sft", "value"), (1.0,)))


def seen(taken, version):
    """(stream, tokens, logp, logp_old, logp_sampler) of every sequence in every view of a step."""
    method = Listening()
    learner().step(taken, method, version)
    found = []
    for view in method.views:
        for i in range(int(view.sequence.max()) + 1):
            here = view.sequence == i
            columns = (view.logp.detach(), view.logp_old, view.logp_sampler)
            found.append((view.streams[int(view.stream[here][0])], *(c[here] for c in columns)))
    return found


def test_with_one_update_only_stale_rollouts_have_a_ratio():
    for stream, logp, old, sampler in seen([streams(version=1)], version=1):
        if stream == "pg" and not torch.equal(old, logp):
            torch.testing.assert_close(old, sampler)
        else:
            assert torch.equal(old, logp)
    found = seen([streams(version=1)], version=1)
    assert sum(not torch.equal(old, logp) for _, logp, old, _ in found) == 1


def test_with_several_updates_all_but_value_are_weighed_against_the_policy_before_the_first():
    """Demonstrations too: RL-PLUS's loss of them has a ratio."""
    found = seen([streams(version=1), streams(version=1)], version=1)
    first, second = found[:5], found[5:]
    before = {(s, tuple(sampler.tolist())): logp for s, logp, _, sampler in first}
    for stream, logp, old, sampler in second:
        assert not torch.allclose(logp, before[stream, tuple(sampler.tolist())], atol=1e-4), "the policy has moved"
        if stream == "value":
            assert torch.equal(old, logp)
        elif torch.equal(old, sampler):
            assert stream == "pg"
        else:
            torch.testing.assert_close(old, before[stream, tuple(sampler.tolist())])
    assert sum(torch.equal(old, sampler) for _, _, old, sampler in second) == 1, "the stale one"


def test_what_a_row_lacks_is_its_own_log_probability_or_zero():
    given = {"logp_ref": (-0.5,) * 8, "return": (2.0,) * 8, "demo_logp": (-3.0,) * 8}
    method = Listening()
    samples = (replace(sample(8, 4, seed=1), annotations=given), sample(8, 3, seed=2))
    learner().step([Update(samples, {"pg": (1.0,)})], method, version=0)
    (view,) = method.views
    has = torch.isin(view.sequence, view.sequence[(view.annotation("return") == 2.0)][:1])
    assert int(has.sum()) == 4 and int((~has).sum()) == 3
    assert view.annotation("return").tolist() == [2.0 if h else 0.0 for h in has]
    assert view.annotation("demo_logp").tolist() == [-3.0 if h else 0.0 for h in has]
    expected = torch.where(has, torch.full_like(view.logp, -0.5), view.logp.detach())
    assert torch.equal(view.annotation("logp_ref"), expected)
    assert view.value is None
    with pytest.raises(KeyError, match="value_next"):
        view.annotation("value_next")
