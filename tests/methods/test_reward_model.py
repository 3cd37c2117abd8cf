"""The reward model: what is paired with what, the pairs' loss and gradient, and a policy that does not move."""

import math
from dataclasses import replace

import pytest
import torch

from builders import group
from small_loop import EASY, HARD, Loop, problem
from superrl.errors import UserError
from superrl.methods import build
from superrl.methods.hooks import Limits, ended
from superrl.records import View
from superrl.text import Renderer


def noted(visit, chosen, rejected):
    """The visit with r of its demonstrations and of its rollouts."""

    def put(ones, values):
        columns = [(0.0,) * (len(one.tokens) - 1) + (v,) for one, v in zip(ones, values, strict=True)]
        return tuple(replace(one, annotations={"end_value": c}) for one, c in zip(ones, columns, strict=True))

    return replace(
        visit, demonstrations=put(visit.demonstrations, chosen), trajectories=put(visit.trajectories, rejected)
    )


def method(**options):
    return build({"name": "reward-model", **options}, Limits(4, 10))


def view_of(samples, values):
    """One trained token a sample, as the learner would show them."""
    n, zeros = len(samples), torch.zeros(len(samples), dtype=torch.float64)
    columns = [torch.tensor([s.advantage[-1] for s in samples], dtype=torch.float64)]
    loss = torch.tensor([s.annotations["pair_loss"][-1] for s in samples], dtype=torch.float64)
    groups = torch.tensor([s.group for s in samples])
    return View(zeros, zeros, zeros, columns[0], torch.arange(n), groups, torch.zeros(n, dtype=torch.long), ("value",),
                value=values, annotations={"pair_loss": loss})  # fmt: skip


def test_loss_and_gradient_are_those_of_the_formula():
    """The oracle: -log sigmoid of every pair, averaged in a group and over the groups that have one."""
    visits = [
        noted(group([0, 1, 0, 0], experts=[5, 3], name="a"), [0.3, -0.7], [0.1, 9.0, -2.0, 1.5]),
        noted(group([1, 1], experts=[4], name="b"), [0.4], [5.0, 6.0]),
        noted(group([0, 0], experts=[2], name="c"), [-1.1], [0.2, -3.0]),
        noted(group([0, 0], name="d"), [], [0.2, -3.0]),
    ]
    one = method(demonstration="all")
    plan = one.plan(visits, {})
    (update,) = plan.updates
    assert update.whole and update.denominators == {"value": (1.0, 0.0, 1.0, 0.0)}
    assert [d.kind for d in plan.decisions] == ["pg", "none", "pg", "none"]
    assert [d.why for d in plan.decisions[1:]] == [
        "no rollout failed", "1 of 2 pairs in the right order", "no demonstration",
    ]  # fmt: skip
    r = {
        (0, True): [0.3, -0.7], (0, False): [0.1, -2.0, 1.5], (2, True): [-1.1], (2, False): [0.2, -3.0],
    }  # fmt: skip
    leaves = {key: torch.tensor(v, dtype=torch.float64, requires_grad=True) for key, v in r.items()}
    losses = []
    for g in (0, 2):
        margins = leaves[g, True][:, None] - leaves[g, False][None]
        losses.append(-torch.nn.functional.logsigmoid(margins).mean())
    whole = torch.stack(losses).mean()
    whole.backward()
    values = torch.cat([leaves[key].detach() for key in r]).requires_grad_(True)
    loss = (one.token_loss(view_of(update.samples, values)) / 2.0).sum()
    loss.backward()
    assert loss.item() == pytest.approx(whole.item(), abs=1e-12)
    torch.testing.assert_close(values.grad, torch.cat([leaves[key].grad for key in r]), rtol=0, atol=1e-12)
    margins = [0.2, 2.3, -1.2, -0.8, 1.3, -2.2, -1.3, 1.9]
    assert plan.metrics == pytest.approx(
        {"pairs": 8.0, "pair_accuracy": 4 / 8, "margin": math.fsum(margins) / 8}, abs=1e-12
    )


def test_a_row_is_the_text_as_it_ends_and_one_token_that_nobody_reads():
    visit = noted(group([0, 0], experts=[3]), [0.0], [0.0, 0.0])
    cut = replace(visit.trajectories[1], stop="length")
    visit = replace(visit, trajectories=(visit.trajectories[0], cut))
    end = visit.demonstrations[0].tokens[-1]
    (update,) = method().plan([visit], {}).updates
    expert, finished, stopped = update.samples
    assert expert.tokens == (*visit.demonstrations[0].tokens, 0)
    assert finished.tokens == (*visit.trajectories[0].tokens[:-1], end, 0)
    assert stopped.tokens == (*cut.tokens, end, 0) and ended(cut, end) == (*cut.tokens, end)
    assert all(s.loss_mask == (False,) * (len(s.tokens) - 1) + (True,) for s in update.samples)
    assert [s.advantage[-1] for s in update.samples] == [0.5, -0.25, -0.25]


def test_only_prompts_with_a_demonstration_are_rolled_out():
    visits = [group([], experts=[3]), group([])]
    assert [[r.n for r in wanted] for wanted in method().requests(visits, {})] == [[4], []]


def test_a_head_is_no_option_and_likeliest_asks_for_what_it_reads():
    with pytest.raises(UserError, match="unknown key 'critic'"):
        method(critic={"kind": "head"})
    assert method(demonstration="likeliest").needs == {"end_value", "demo_logp"}
    assert method().needs == {"end_value"} and method().critic.kind == "model"


def test_it_learns_to_tell_the_expert_from_failures_and_the_policy_does_not_move():
    loop = Loop({"name": "reward-model", "lr": 0.01}, [EASY, HARD, problem("bare", "zz")], steps=30, lr=0.5)
    schedule = loop.learner.schedule
    decayed = schedule.optimizer.model_copy(update={"weight_decay": 0.1})
    loop.learner.begin(replace(schedule, optimizer=decayed, epochs=2, mini_batches=2), loop.method.critic)
    before = {name: p.clone() for name, p in loop.learner.model.named_parameters()}
    first = loop.planned()[1].metrics
    for _ in range(30):
        loop.step()
    groups, plan = loop.planned()
    assert first["pair_accuracy"] == 0.0 and first["margin"] == 0.0
    assert plan.metrics["pair_accuracy"] > 0.9 and plan.metrics["margin"] > 1.0
    assert all(p.equal(before[name]) for name, p in loop.learner.model.named_parameters())
    assert loop.learner.optimizers == {} or not any(o.state() for o in loop.learner.optimizers.values())
    assert loop.learner.progress.updates == 30
    assert groups[2].trajectories == () and isinstance(loop.renderer, Renderer)
