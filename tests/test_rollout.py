"""Rolling out with a small real sampler that draws digits, scoring, retrying, and dynamic sampling around it."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import group
from superrl.config import RefillConfig
from superrl.records import Group, Problem, Request, Score, Trajectory
from superrl.rewards.base import Reward
from superrl.rollout import KEEP, MAX_TURNS, Environment, keyed, refill, retry, roll_out, score
from superrl.sampling.protocol import SamplingLimits


class Digits:
    """A sampler whose completion is one digit, a pure function of key and index."""

    def sample(self, prompts, limits, on_tokens=None):
        return [[self._draw(p, j) for j in range(p.n)] for p in prompts]

    def load(self, weights, version):
        raise NotImplementedError

    def _draw(self, prompt, j):
        digit = random.Random(f"{prompt.key}/{j}").randrange(10)
        tokens = (*prompt.tokens, digit)
        mask = (*[False] * len(prompt.tokens), True)
        return Trajectory(tokens, mask, (0.0,) * len(tokens), str(digit), temperature=prompt.temperature)


class Even(Reward):
    """1 for an even last digit; counts its calls."""

    gives_correct = True
    fingerprint = None

    def __init__(self):
        self.calls = []

    def score(self, problems, completions):
        self.calls.append(len(completions))
        return [Score(float(int(c[-1]) % 2 == 0), int(c[-1]) % 2 == 0) for c in completions]


class Plain:
    """Renders a problem as the code points of its id, or of the last of other messages, and ids as characters."""

    def context(self, problem, *, messages=None):
        return tuple(map(ord, problem.id if messages is None else messages[-1]["content"]))

    def decode(self, ids):
        return "".join(chr(i) if i > 9 else str(i) for i in ids)


def environment():
    return Environment(Plain(), SamplingLimits(5), 1.0, Even())


def problem(name):
    return Problem(name, ({"role": "user", "content": name},))


def visit(name):
    return keyed([Group(problem(name))], (0, 0, 0, 0, 0))[0]


def drawn(names, step=0):
    """(problem, completion) of a batch of these problems at a step."""
    groups = keyed([Group(problem(name)) for name in names], (7, 0, 0, step, 0))
    asked = [(Request(12),) for _ in groups]
    rolled = roll_out(asked, groups, environment(), Digits(), None)
    return [(g.problem.id, "".join(t.text for t in g.trajectories)) for g in rolled]


@given(names=st.lists(st.sampled_from("abcdefg"), max_size=10), seed=st.integers(0, 9), data=st.data())
def test_a_problem_s_draws_depend_on_neither_its_place_nor_its_neighbours(names, seed, data):
    whole = drawn(names)
    assert len(set(whole)) == len(names), "twice in a batch is two draws"
    turned = random.Random(seed).sample(names, len(names))
    assert sorted(drawn(turned)) == sorted(whole)
    lost = data.draw(st.sampled_from("abcdefg"))
    assert drawn([name for name in names if name != lost]) == [one for one in whole if one[0] != lost]
    assert set(drawn(names, step=1)).isdisjoint(whole)


def test_a_key_is_the_visit_the_problem_and_its_occurrence():
    """The numbers are written down: they must not change with the interpreter or the machine."""
    odd = "a\ud800b"
    keys = [g.key for g in keyed([Group(problem(name)) for name in ("a", odd, "a", "a\ufffdb")], (7, 0, 2))]
    assert [key[:3] for key in keys] == [(7, 0, 2)] * 4 and [key[4] for key in keys] == [0, 0, 1, 0]
    assert keys[0][3] == keys[2][3] == 1702698405120146464 and len({key[3] for key in keys}) == 3
    assert all(0 <= key[3] < 2**63 for key in keys)


def test_groups_keep_their_order_and_requests_their_prefix_and_temperature():
    asked = [(Request(2),), (Request(3, prefix=(ord("x"), ord("7")), temperature=0.5),)]
    groups = roll_out(asked, [visit("a"), visit("b")], environment(), Digits(), None)
    assert [len(g.trajectories) for g in groups] == [2, 3]
    drawn = groups[1].trajectories[0]
    assert drawn.tokens[:3] == (ord("b"), ord("x"), ord("7")) and drawn.text == f"x7{drawn.tokens[3]}"
    assert (drawn.prefix, drawn.start, drawn.assisted) == (2, 1, True)
    assert [groups[i].trajectories[0].temperature for i in (0, 1)] == [1.0, 0.5]
    assert groups[1].own == () and groups[0].own == groups[0].trajectories


def test_a_group_may_ask_for_several_kinds_of_rollout_or_for_none():
    """The first request draws with the group's key, so that adding a second one changes none of its draws."""
    hint = ({"role": "user", "content": "h"},)
    mixed, none = roll_out(
        [(Request(2), Request(1, messages=hint)), ()], [visit("a"), visit("b")], environment(), Digits(), None
    )
    (alone,) = roll_out([(Request(2),)], [visit("a")], environment(), Digits(), None)
    assert mixed.trajectories[:2] == alone.trajectories and none.trajectories == ()
    assert [t.hinted for t in mixed.trajectories] == [False, False, True]
    assert mixed.trajectories[2].tokens[0] == ord("h") and mixed.own == alone.trajectories
    texts = {
        roll_out([(Request(0), Request(9))], [visit("a")], environment(), Digits(), None)[0].trajectories[i].text
        for i in range(9)
    }
    assert len(texts) > 1


def test_scoring_is_one_call_and_scores_nothing_twice():
    env = environment()
    groups = roll_out([(Request(4),)], [visit("a")], env, Digits(), None)
    scored = score(groups, env)
    assert score(scored, env) == scored and env.reward.calls == [4, 0]
    assert all(t.score.correct == (int(t.text) % 2 == 0) for t in scored[0].trajectories)


def test_a_retry_draws_anew_and_joins_its_group():
    env = environment()
    groups = score(roll_out([(Request(4),)], [visit("a")], env, Digits(), None), env)
    (joined,) = retry(until(8), groups, env, Digits(), None)
    assert joined.trajectories[:4] == groups[0].trajectories and len(joined.trajectories) == 8
    assert all(t.score is not None for t in joined.trajectories) and joined.key == groups[0].key
    assert [t.text for t in joined.trajectories[:4]] != [t.text for t in joined.trajectories[4:]]


def test_rounds_go_on_until_nothing_is_wanted_each_with_draws_of_its_own():
    env = environment()
    groups = score(roll_out([(Request(4),), (Request(4),)], [visit("a"), visit("b")], env, Digits(), None), env)
    grown = retry(until(12, {1}), groups, env, Digits(), None)
    assert [len(g.trajectories) for g in grown] == [4, 12]
    rounds = [tuple(t.text for t in grown[1].trajectories[i : i + 4]) for i in (0, 4, 8)]
    assert len(set(rounds)) == 3


def test_a_method_that_never_stops_asking_is_stopped():
    env = environment()
    (grown,) = retry(until(10**6), [visit("a")], env, Digits(), None)
    assert len(grown.trajectories) == 4 * MAX_TURNS


def until(many, which=(0,)):
    """Four more for some groups until they have `many`."""
    return lambda groups: {i: (Request(4),) for i in which if len(groups[i].trajectories) < many}


MIXED, DEAD, SOLVED = group([1, 0], name="mixed"), group([0, 0], name="dead"), group([1, 1], name="solved")
TAUGHT = group([0, 0], experts=[3], name="taught")
SHAPED = group([0.2, 0.4], correct=[False, False], name="shaped")


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("mixed", [MIXED]), ("deviation", [MIXED, SHAPED]), ("solved", [MIXED, SOLVED]), ("learnable", [MIXED, TAUGHT])],
)
def test_keep_rules(rule, kept):
    assert [g for g in (MIXED, DEAD, SOLVED, SHAPED, TAUGHT) if KEEP[rule](g, 1e-6)] == kept


@pytest.mark.parametrize("rule", KEEP)
def test_no_rule_keeps_a_group_without_rollouts_or_fails_on_it(rule):
    """A method may roll nothing out for a step (SASR's SFT steps)."""
    assert not KEEP[rule](group([]), 1e-6)


def test_mixed_goes_by_reward_where_nothing_is_judged():
    unjudged = [group(r, correct=[None, None]) for r in ([0.1, 0.4], [0.3, 0.1 + 0.2])]
    assert [KEEP["mixed"](g, 1e-6) for g in unjudged] == [True, False]


@given(
    stream=st.lists(st.booleans(), min_size=60, max_size=60),
    want=st.integers(1, 8),
    cap=st.integers(1, 4),
    oversample=st.sampled_from([1.0, 1.5, 2.0]),
    carry=st.booleans(),
)
def test_refill_keeps_the_first_good_groups_in_order_and_loses_none_it_carries(stream, want, cap, oversample, carry):
    drawn = []

    def draw(count, attempt):
        fresh = [replace(MIXED if stream[len(drawn) + i] else DEAD, key=(len(drawn) + i,)) for i in range(count)]
        drawn.extend(fresh)
        return fresh

    result = refill(draw, want, RefillConfig(cap=cap, oversample=oversample, carry_over=carry))
    good = [g for g in drawn if g.problem.id == "mixed"]
    assert result.drawn == len(drawn)
    assert list(result.groups) == good[:want]
    assert list(result.carried) == (good[want:] if carry else [])


def test_refill_uses_what_was_carried_first_and_stops_at_the_cap():
    calls = []

    def draw(count, attempt):
        calls.append((count, attempt))
        return [DEAD] * count

    result = refill(draw, 3, RefillConfig(cap=2), carried=[MIXED])
    assert calls == [(2, 0), (2, 1)] and result.groups == (MIXED,) and result.drawn == 4
    assert refill(draw, 1, RefillConfig(), carried=[MIXED]).drawn == 0
