"""Every fallback but `sft`: truth table, one denominator, values by hand, and the formula by an oracle in float64."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prefixed import agree, column, hinted, method, noted, streams

from builders import group
from small_runs import recipe, small_model
from superrl.errors import UserError
from superrl.losses import distillation
from superrl.methods.fallbacks import FALLBACKS
from superrl.records import StepRecord, View
from superrl.training import train

WRONG = [False] * 4
OWN = {"distill": "distill", "ngrpo": "ngrpo", "zvp": "zvp", "replay": "replay", "hint": "pg", "none": None}


def superrl(name, **options):
    return method("superrl", fallback={"name": name, **options})


def visit(rewards=(0, 0, 0, 0), *, expert=8, name="a", **options):
    return group(list(rewards), experts=[expert] if expert else (), name=name, **options)


def ready(name, one):
    """The visit as the loop would hand it to `plan`: hinted rollouts drawn, annotations taken."""
    fallback = superrl(name)
    if fallback.retry([one], {}):
        one = hinted(one, 4, [1, 0, 0, 1])
    if fallback.teacher(one, {}):
        one = noted(one, "logp_teacher")
    return one


def remembering(name, one):
    return {"memory": {one.problem.id: [[2, [3, 1, 4, 1, 5]]]}} if name == "replay" else {}


TABLE = {
    "all fail": (visit(), True),
    "one right": (visit([0, 1, 0, 0]), False),
    "all right": (visit([1, 1, 1, 1]), False),
    "all fail, no demonstration": (visit(expert=0), None),
    "rewards in {-1, 1}, all fail": (visit([-1] * 4), True),
    "rewards in {-1, 1}, one right": (visit([-1, 1, -1, -1]), False),
    "equal shaping on failures": (visit([0.3] * 4, correct=WRONG), True),
    "shaping on failures": (visit([0.2, 0.1, 0.3, 0.2], correct=WRONG), "shaped"),
    "right by less than a failure": (visit([0.4, 0.9, 0, 0], correct=[True, False, False, False]), False),
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("case", TABLE)
def test_truth_table(name, case):
    one, failed = TABLE[case]
    plan = superrl(name).plan([ready(name, one)], remembering(name, one))
    falls_back = failed and (failed != "shaped" or name != "zvp")
    falls_back = name in ("ngrpo", "zvp", "replay") if failed is None else falls_back
    own = streams(plan)
    if failed is False:
        mixed = len({s.value for s in one.scores}) > 1
        assert plan.decisions[0].kind == ("pg" if mixed else "none") and set(own) <= {"pg"}
    elif falls_back and OWN[name]:
        assert plan.decisions[0].kind == "sft" and own == {OWN[name]: 1 if name == "replay" else 4}
        assert "learns from" in plan.decisions[0].why
    else:
        assert plan.decisions[0].kind == "none" and own == {}
        assert plan.decisions[0].why.endswith("nothing is learnt")


@pytest.mark.parametrize("name", OWN)
def test_one_denominator_counts_every_group(name):
    batch = [ready(name, visit(name=n)) for n in "ab"]
    batch += [visit([1, 0, 0, 0], name="c"), visit([1] * 4, name="d"), visit(expert=0, name="e")]
    (update,) = superrl(name).plan(batch, remembering(name, batch[0])).updates
    assert all(shares == (1.0,) * 5 for shares in update.denominators.values())
    lessons = [s for s in update.samples if s.group == 0]
    if OWN[name]:
        assert sum(s.weight * sum(s.loss_mask) for s in lessons) == pytest.approx(1.0, rel=1e-12)


def test_every_fallback_is_tested_here_or_with_the_switch():
    assert set(OWN) | {"sft"} == set(FALLBACKS)


# distill


def test_the_teacher_reads_the_demonstration_in_the_prompt_and_braces_in_the_data_mean_nothing():
    one = visit()
    question = ({"role": "system", "content": "s"}, {"role": "user", "content": "why {demonstration}?"})
    one = replace(one, problem=replace(one.problem, messages=question))
    shown = superrl("distill", template="{prompt} | {demonstration}").teacher(one, {})
    assert shown == (
        {"role": "system", "content": "s"},
        {"role": "user", "content": f"why {{demonstration}}? | {one.demonstrations[0].text}"},
    )
    assert superrl("distill").teacher(visit([1, 0, 0, 0]), {}) is None
    assert superrl("distill").teacher(visit(expert=0), {}) is None
    assert superrl("distill").needs == {"logp_teacher"}


def test_distill_is_the_reverse_kl_at_the_drawn_tokens():
    one = noted(visit(lengths=[2, 3, 1, 4]), "logp_teacher")
    other = visit([1, 0, 0, 0], name="b")
    plan = superrl("distill").plan([one, other], {})

    def formula(read):
        total = 0.0
        for t in one.trajectories:
            row, taught = read(t), column(t, t.annotations["logp_teacher"])
            total += (-row.ratio * (taught - row.logp).detach()).mean() / 4
        for t in other.trajectories:
            total += read(t).clipped((t.score.value - 0.25) / (0.5 + 1e-4)).mean() / 4
        return total / 2

    agree(superrl("distill"), plan, formula)


def test_on_policy_distill_has_the_gradient_of_the_divergence():
    """E over the policy's own tokens of the loss's gradient is that of KL(policy || teacher), for one token."""
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, dtype=torch.float64).log_softmax(-1)
    logp = logits.log_softmax(-1)
    (kl,) = torch.autograd.grad((logp.exp() * (logp - teacher)).sum(), logits, retain_graph=True)
    token = distillation(logp, logp.detach(), teacher)
    (mine,) = torch.autograd.grad((logp.detach().exp() * token).sum(), logits)
    torch.testing.assert_close(mine, kl, rtol=1e-9, atol=1e-12)


# hint


def test_hint_asks_once_for_a_share_of_the_demonstration():
    one = visit(expert=8)
    (request,) = superrl("hint").retry([one, visit([1, 0, 0, 0], name="b")], {})[0]
    assert (request.n, request.prefix) == (4, one.demonstrations[0].tokens[4:8])
    assert superrl("hint").retry([hinted(one, 4, [0, 0, 0, 0])], {}) == {}
    assert superrl("hint").retry([visit(expert=2)], {}) == superrl("hint").retry([visit(expert=0)], {}) == {}
    (request,) = superrl("hint", share=0.9, n=2).retry([one], {})[0]
    assert (request.n, len(request.prefix)) == (2, 6)  # 7 of 8 would leave the end alone


HINTED = [([1, 0, 0, 1], 4), ([0, 0, 0, 0], 0), ([1, 1, 1, 1], 0)]


@pytest.mark.parametrize(("rewards", "kept"), HINTED)
def test_hint_learns_only_from_a_mixed_round(rewards, kept):
    one = hinted(visit(), 4, rewards)
    plan = superrl("hint").plan([one], {})
    assert streams(plan).get("pg", 0) == kept and not one.solved
    assert f"{sum(rewards)} of 4 correct after 4 expert tokens" in plan.decisions[0].why
    assert all(s.loss_mask[:8] == (False,) * 8 for s in plan.updates[0].samples)


def test_shaping_alone_does_not_make_a_hint_work():
    one = hinted(visit(), 4, [0.3, 0.1, 0.0, 0.2])
    assert streams(superrl("hint").plan([one], {})) == {}


def test_hint_is_grpo_among_the_hinted():
    one = hinted(visit(), 4, [1, 0, 0, 1], [1, 2, 3, 4])
    plan = superrl("hint").plan([one, visit(name="b")], {})

    def formula(read):
        deviation = math.sqrt(1 / 3) + 1e-4
        rows = [t for t in one.trajectories if t.prefix]
        return sum(read(t).clipped((t.score.value - 0.5) / deviation).mean() for t in rows) / 4 / 2

    agree(superrl("hint"), plan, formula)


# replay


def test_replay_keeps_the_newest_different_finished_successes_of_its_own():
    one = visit([1, 0, 1, 1], lengths=[2, 3, 4, 5])
    cut = replace(one.trajectories[3], stop="length")
    repeated = replace(one, trajectories=(*one.trajectories[:3], one.trajectories[0], cut))
    method_, record = superrl("replay", keep=2), StepRecord(1, {}, ())
    state = method_.after_step(record, [hinted(repeated, 4, [1])], method_.initial_state())
    wanted = [[t.start, list(t.tokens)] for t in (one.trajectories[0], one.trajectories[2])]
    assert state["memory"] == {"a": wanted}
    later = visit([0, 1, 0, 0], lengths=[7, 8, 7, 7])
    state = method_.after_step(record, [later, visit([0] * 4, name="b")], json.loads(json.dumps(state)))
    assert state["memory"] == {"a": [wanted[1], [4, list(later.trajectories[1].tokens)]]}


@given(rounds=st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=8), keep=st.integers(1, 3))
def test_a_problem_s_memory_never_exceeds_its_bound_and_holds_no_duplicate(rounds, keep):
    one, state = superrl("replay", keep=keep), superrl("replay").initial_state()
    for seeds in rounds:
        batch = [visit([1.0], lengths=[seed + 1]) for seed in seeds]
        state = one.after_step(StepRecord(1, {}, ()), batch, state)
        kept = state["memory"].get("a", [])
        assert len(kept) <= keep and len({tuple(tokens) for _, tokens in kept}) == len(kept)


def test_replay_imitates_one_past_success():
    past = [[2, [3, 1, 4, 1, 5]], [2, [3, 1, 2, 2]]]
    one, state = superrl("replay"), {"memory": {"a": past}}
    drawn = {tuple(one.plan([visit(key=(0, 0, 0, s, 0, 0))], state).updates[0].samples[0].tokens) for s in range(30)}
    assert drawn == {tuple(tokens) for _, tokens in past}
    plan = one.plan([visit(), visit(name="b")], {"memory": {"a": past[:1]}})
    assert [d.kind for d in plan.decisions] == ["sft", "none"]
    (sample,) = plan.updates[0].samples
    assert (sample.origin, sample.stream, sample.loss_mask) == ("replay", "replay", (False,) * 2 + (True,) * 3)
    agree(one, plan, lambda read: -read(sample).logp.mean() / 2)


# ngrpo


@pytest.mark.parametrize("k", [2, 4, 8])
def test_ngrpo_by_hand(k):
    (update,) = superrl("ngrpo").plan([group([0] * k)], {}).updates
    assert [s.advantage[-1] for s in update.samples] == [pytest.approx(-1 / math.sqrt(k + 1), rel=1e-5)] * k


def test_ngrpo_clips_negative_advantages_at_its_own_bound():
    one = visit([0.2, 0.0, 0.1, 0.0], correct=WRONG, lengths=[2, 3, 5, 4])

    def formula(read):
        rewards = torch.tensor([0.2, 0.0, 0.1, 0.0, 1.0], dtype=torch.float64)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        rows = zip(one.trajectories, advantages, strict=False)
        return sum(read(t).clipped(float(a), 0.16, 0.24).mean() for t, a in rows) / 4

    agree(superrl("ngrpo"), superrl("ngrpo").plan([one], {}), formula)


def test_ngrpo_at_the_maximum_already_learns_nothing():
    assert streams(superrl("ngrpo").plan([visit([1.0] * 4, correct=WRONG)], {})) == {}


# zvp


def test_zvp_pushes_down_by_certainty():
    one = visit(lengths=[2, 3, 5, 4])

    def formula(read):
        total = 0.0
        for t in one.trajectories:
            row = read(t)
            entropy = row.entropy.detach()
            total += row.clipped(-0.1 * (entropy.max() - entropy)).mean() / 4
        return total

    assert superrl("zvp").needs == {"entropy"}
    agree(superrl("zvp"), superrl("zvp").plan([one], {}), formula)


def test_zvp_leaves_the_least_certain_token_alone():
    logp = torch.tensor([-0.5, -0.2, -0.1, -0.3, -2.0], requires_grad=True)
    entropy = torch.tensor([0.3, 1.1, 0.8, 0.2, 0.4], requires_grad=True)
    zeros, stream = torch.zeros(5), torch.zeros(5, dtype=torch.long)
    sequence = torch.tensor([0, 0, 0, 1, 1])
    view = View(logp, logp.detach(), zeros, zeros, sequence, stream, stream, ("zvp",), entropy=entropy)
    superrl("zvp", alpha=0.5).fallback.token_loss(view).sum().backward()
    torch.testing.assert_close(logp.grad, 0.5 * torch.tensor([0.8, 0.0, 0.3, 0.2, 0.0]))
    assert entropy.grad is None


# options


def test_options_are_checked_in_one_sentence():
    for choice in ("all", "likeliest"):
        for name in ("distill", "hint"):
            with pytest.raises(UserError, match="set demonstration: first, random or shortest"):
                method("superrl", fallback=name, demonstration=choice)
    with pytest.raises(UserError, match="must show"):
        superrl("distill", template="{prompt}")
    with pytest.raises(UserError, match="fallback"):
        superrl("hint", share=1.0)
    with pytest.raises(UserError, match="fallback"):
        superrl("zvp", alpha=0)


def test_a_stream_of_its_own_can_have_its_own_optimizer_state():
    one = method("superrl", fallback="ngrpo", sft={"separate_state": True, "lr_scale": 0.1, "weight": 0.5})
    rollouts, lessons = one.plan([visit(), visit([1, 0, 0, 0], name="b")], {}).updates
    assert {s.stream for s in rollouts.samples} == {"pg"} and {s.stream for s in lessons.samples} == {"ngrpo"}
    assert lessons.denominators == {"ngrpo": (1.0, 1.0)} and lessons.stream_weights == {"ngrpo": 0.5}


def test_failures_that_are_kept_and_pushed_down_are_trained_twice_over_one_denominator():
    one = method("superrl", fallback="ngrpo", failed_rollouts="keep")
    plan = one.plan([visit([0.2, 0.1, 0.0, 0.1], correct=WRONG)], {})
    assert plan.decisions[0].kind == "both" and set(streams(plan)) == {"ngrpo", "pg"}


def test_scores_of_hinted_rollouts_are_not_read_by_the_gate():
    one = hinted(visit(), 4, [1, 1, 0, 0])
    kinds = {
        gate: method("superrl", gate=gate, **extra).plan([one], {"visits": {}}).decisions[0].kind
        for gate, extra in (("reward", {}), ("rate", {"gamma": 0.25}), ("history", {}), ("advantage", {}))
    }
    assert set(kinds.values()) == {"sft"}
    remembered = method("superrl", gate="history").after_step(
        StepRecord(1, {}, ()), [one], {"visits": {}, "memory": {}}
    )
    assert remembered["visits"] == {"a": [0, 4]}


@pytest.mark.parametrize("name", ["distill", "ngrpo", "zvp"])
def test_only_the_policy_s_own_failures_are_its_lesson(name):
    one = noted(hinted(visit(), 4, [0, 0, 1]), "logp_teacher")
    assert streams(superrl(name).plan([one], {})) == {name: 4}
    alone = replace(one, trajectories=one.own)
    assert superrl(name).plan([one], {}).updates == superrl(name).plan([alone], {}).updates


def test_a_micro_batch_without_a_lesson_does_not_ask_for_what_the_lesson_reads():
    zeros, n = torch.zeros(3), torch.zeros(3, dtype=torch.long)
    view = View(zeros, zeros, zeros, zeros + 1.0, n, n, n, ("pg", "distill"))
    assert superrl("distill").token_loss(view).tolist() == [-1.0] * 3


def test_a_teacher_that_would_not_fit_the_context_teaches_nothing(tmp_path):
    """160 positions: the second template leaves no room for a completion, so there is no lesson, and no crash."""
    model, losses = small_model(tmp_path / "model"), []
    for n, filler in enumerate(("", "1" * 160)):
        fallback = {"name": "distill", "template": filler + "{prompt}{demonstration}"}
        settings = recipe(model, {"method": {"name": "superrl", "fallback": fallback}})
        out = train(settings, tmp_path / str(n), reward=lambda completions, **columns: [0.0] * len(completions))
        lines = (out / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss/distill") for line in lines])
    assert any(losses[0]) and not any(losses[1])
