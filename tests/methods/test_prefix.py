"""The prefix mechanism for real: the shipped tiny model, the real sampler, renderer, reward and learner.

What a method asks for (a `Request` with a prefix) comes back as a rollout that the policy went on with from there, and
whose success is nobody's but the expert's. Then whole small runs of every method and fallback that asks for one.
"""

from dataclasses import replace

import pytest
import torch

from small_runs import letters, recipe, rows, run, small_model
from superrl import engine, setup
from superrl.learner.learner import Learner
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.records import Request
from superrl.rollout import keyed, retry, roll_out, score
from superrl.sampling.protocol import Prompt
from superrl.telemetry import of_groups

LONGEST = 26


@pytest.fixture(scope="module")
def session():
    """The tiny model, and problems of a few dozen tokens with demonstrations."""
    data = {"train": "tasks:chain?order=right&ops=3&n=6", "unverified": "keep"}
    return setup.build(recipe("tiny", {"max_new_tokens": LONGEST}, data=data))


@pytest.fixture(scope="module")
def sampler(session):
    made = engine.new_sampler(session.model, session.tokenizer, torch.float32, session.environments)
    made.load(dict(session.model.named_parameters()), 0)
    return made


@pytest.fixture(scope="module")
def world(session, sampler):
    """(groups with keys, environment, sampler)."""
    stage = session.stages[0]
    return keyed(stage.groups, (0, 1, 0, 3, 0)), stage.environment, sampler


def beginning(group, length):
    (expert,) = group.demonstrations
    return expert.tokens[expert.start :][:length]


def draw(world, *requests, turn=0, step=None):
    groups, environment, sampler = world
    asked = groups[:1] if step is None else keyed([replace(groups[0], key=())], (0, 1, 0, step, 0))
    (drawn,) = roll_out([requests], asked, environment, sampler, None, turn)
    return drawn


@pytest.mark.parametrize("length", [1, 5, 9])
def test_the_policy_goes_on_as_if_it_had_written_the_beginning_itself(world, length):
    """Greedy: after the first tokens of its own answer it writes the rest of that answer."""
    (whole,) = draw(world, Request(1, temperature=0.0)).trajectories
    answer = whole.tokens[whole.start :]
    assert len(answer) > length + 1
    (rest,) = draw(world, Request(1, prefix=answer[:length], temperature=0.0)).trajectories
    assert rest.tokens == whole.tokens and rest.text == whole.text and rest.stop == whole.stop
    assert (rest.prefix, rest.start, rest.length) == (length, whole.start, whole.length - length)
    assert rest.logp_sampler[-rest.length :] == pytest.approx(whole.logp_sampler[-rest.length :], abs=1e-5)


def test_a_continuation_is_what_the_sampler_draws_after_those_tokens(world):
    groups, environment, sampler = world
    prefix, context = beginning(groups[0], 4), environment.renderer.context(groups[0].problem)
    drawn = draw(world, Request(6, prefix=prefix)).trajectories
    prompt = Prompt(context + prefix, 6, groups[0].key, 1.0, drawn=4)
    (straight,) = sampler.sample([prompt], environment.limits)
    assert [t.tokens for t in drawn] == [t.tokens for t in straight]
    assert [t.logp_sampler for t in drawn] == [t.logp_sampler for t in straight]


def test_the_expert_s_tokens_are_not_the_policy_s_and_the_text_is_the_whole_answer(world):
    groups, environment, _ = world
    prefix, context = beginning(groups[0], 6), environment.renderer.context(groups[0].problem)
    for one in draw(world, Request(5, prefix=prefix)).trajectories:
        own = one.tokens[len(context) + 6 :]
        assert one.tokens == context + prefix + own and one.start == len(context)
        assert one.loss_mask == (False,) * (len(context) + 6) + (True,) * len(own)
        assert set(one.logp_sampler[: len(context) + 6]) == {0.0} and max(one.logp_sampler[-len(own) :]) < 0.0
        assert one.text == environment.renderer.decode((*prefix, *own))
        assert one.text.startswith(environment.renderer.decode(prefix)) and one.assisted


@pytest.mark.parametrize("length", [0, 7, LONGEST - 1])
def test_prefix_and_continuation_share_one_budget(world, length):
    prefix = (beginning(world[0][0], 5) * 9)[:length]
    drawn = draw(world, Request(8, prefix=prefix, temperature=3.0)).trajectories
    longest = max(t.length for t in drawn)
    assert longest == LONGEST - length
    assert all((t.stop == "length") == (t.length == LONGEST - length) or t.stop == "eos" for t in drawn)


def test_the_learner_agrees_on_every_drawn_token(session, world):
    groups, _, _ = world
    drawn = draw(world, Request(3), Request(3, prefix=beginning(groups[0], 5))).trajectories
    learner = Learner(session.model, torch.float32, session.stages[0].schedule)
    for one, logp in zip(drawn, learner.logprobs(drawn), strict=True):
        assert logp == pytest.approx(one.logp_sampler, abs=1e-4)


def test_every_request_round_and_visit_draws_anew_and_each_the_same_again(world):
    prefix = beginning(world[0][0], 3)

    def texts(**options):
        drawn = draw(world, Request(4, temperature=5.0), Request(4, prefix=prefix, temperature=5.0), **options)
        return tuple(t.tokens[-t.length :] for t in drawn.trajectories)

    visits = [texts(), texts(turn=1), texts(turn=2), texts(step=4)]
    assert len({one for visit in visits for one in visit}) == 4 * 8
    assert texts(turn=1) == visits[1] and texts(step=3) == visits[0]


def test_rounds_of_the_loop_draw_anew_after_the_same_prefix(world):
    groups, environment, sampler = world
    prefix = beginning(groups[0], 3)

    def twice(visited):
        (one,) = visited
        return {0: [Request(3, prefix=prefix, temperature=5.0)]} if len(one.trajectories) < 6 else {}

    (done,) = retry(twice, groups[:1], environment, sampler, None)
    assert len({t.tokens for t in done.trajectories}) == 6 and all(t.score is not None for t in done.trajectories)


def test_a_success_with_help_is_not_the_policy_s_own(world):
    """Almost all of the demonstration given: the rollouts succeed, and nothing says that the policy can do it."""
    groups, environment, _ = world
    expert = groups[0].demonstrations[0]
    given = beginning(groups[0], expert.length - 2)
    noise = draw(world, Request(4, temperature=9.0), Request(4, prefix=given, temperature=0.0))
    (done,) = score([noise], environment)
    verdicts = [s.correct for s in done.scores]
    assert verdicts == [False] * 4 + [True] * 4 and done.trajectories[-1].text == expert.text
    assert not done.solved and len(done.own) == 4
    told = of_groups([done])
    assert told["reward/correct"] == told["switch/solved_rate"] == 0.0
    assert told["reward/mean"] == 0.5 and told["switch/expected_rate"] == 1.0
    limits = Limits(4, LONGEST)
    for name, kind in (("superrl", "sft"), ("hpt", "sft")):
        assert build({"name": name}, limits).plan([done], {"visits": {}, "memory": {}}).decisions[0].kind == kind


def test_bread_moves_its_branch_until_some_succeed(world):
    """With so hot a policy that nothing but most of the expert's trace helps, the search goes on to there."""
    _, environment, sampler = world
    bread = build({"name": "bread", "rounds": 6}, Limits(8, LONGEST))
    (cold,) = score([draw(world, Request(8, temperature=9.0))], environment)
    assert not cold.solved
    (done,) = retry(lambda visited: bread.retry(visited, {}), [cold], environment, sampler, None)
    lengths = list(dict.fromkeys(t.prefix for t in done.trajectories if t.assisted))
    assert 1 <= len(lengths) <= 6 and lengths[0] == (cold.demonstrations[0].length - 1) // 2
    assert {len([t for t in done.trajectories if t.prefix == n]) for n in lengths} == {8}
    assert bread.plan([done], {}).metrics["branches"] == len(lengths)


RUNS = {
    "uft": ({"name": "uft"}, "sft", "method/hint_tokens"),
    "prefix-rft": ({"name": "prefix-rft", "top_share": 0.5}, "prefix", "method/prefix_tokens"),
    "bread": ({"name": "bread"}, "pg", "method/branches"),
    "rft": ({"name": "rft"}, "pg", None),
    **{
        name: ({"name": "superrl", "fallback": name}, stream, None)
        for name, stream in (
            ("distill", "distill"),
            ("hint", "pg"),
            ("replay", "replay"),
            ("ngrpo", "ngrpo"),
            ("zvp", "zvp"),
        )
    },
}


def stingy(completions, **columns):
    """`letters`, and harder: most groups fail, and what has been solved once is not always solved again."""
    return [value * float(len(text) % 2 == 0) for value, text in zip(letters(completions), completions, strict=True)]


@pytest.mark.parametrize("name", RUNS)
def test_three_steps_through_the_real_loop(tmp_path, name):
    method, stream, told = RUNS[name]
    model = small_model(tmp_path / "model")
    stage = {"method": method, "steps": 3, "prompts_per_step": 12, "max_new_tokens": 12}
    folder = run(recipe(model, stage, evaluation={"every": 0}), tmp_path / "run", reward=stingy)
    metrics = rows(folder)
    assert len(metrics) == 3 and all(row["loss"] is not None and row["updates"] > 0 for row in metrics[1:])
    assert any(row.get(f"loss/{stream}") for row in metrics), [sorted(row) for row in metrics]
    assert told is None or any(row[told] > 0 for row in metrics)
    decided = {line["decision"] for line in rows(folder, "rollouts.jsonl")}
    assert decided & {"pg", "sft", "both"}
