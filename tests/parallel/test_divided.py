"""Sampler and reward made of those of several ranks: the same draws and scores as alone, whoever computes them."""

import pytest

from builders import tiny_llama
from ranks import in_world, on_ranks
from small_loop import EOS, TOKENIZER
from superrl.parallel import ALONE
from superrl.records import Problem, Score
from superrl.rewards.base import Reward
from superrl.rewards.divided import DividedReward
from superrl.sampling.local import LocalSampler
from superrl.sampling.protocol import Prompt, SamplingLimits
from superrl.sampling.sharded import ShardedSampler

PROMPTS = [Prompt((3 + i, 5, 7), n, (0, i)) for i, n in enumerate((2, 5, 1, 3))]


def drawn(world, engines):
    """What all ranks get where only `engines` have an engine, and what this one drew itself."""
    inner = (
        LocalSampler(tiny_llama(vocab_size=len(TOKENIZER)), TOKENIZER, eos_ids=[EOS], slots=4)
        if world.rank in engines
        else None
    )
    sampler, heard = ShardedSampler(inner, world), []
    found = sampler.sample(PROMPTS, SamplingLimits(6), heard.append)
    sampler.close()
    return found, sum(heard)


@pytest.mark.parametrize("engines", [(0, 1, 2), (0,)])
def test_completions_are_those_of_one_process(engines):
    alone, whole = drawn(ALONE, (0,))
    assert [len(one) for one in alone] == [2, 5, 1, 3]
    found = on_ranks(3, in_world, drawn, engines)
    assert all(completions == alone for completions, _ in found)
    assert [own > 0 for _, own in found] == [rank in engines for rank in range(3)]
    assert sum(own for _, own in found) == whole, "each token is drawn by one rank"


class Among(Reward):
    """How many completions of its problem a completion was scored with."""

    gives_correct = False
    fingerprint = None

    def score(self, problems, completions):
        ids = [problem.id for problem in problems]
        return [Score(float(ids.count(problem.id)), None, {"in call": len(ids)}) for problem in problems]


def scored(world):
    problems = [Problem(name, ({"role": "user", "content": name},)) for name in "abcde" for _ in range(3)]
    reward = DividedReward(Among(), world)
    scores = reward.score(problems, [problem.id for problem in problems])
    return [(score.value, score.parts["in call"]) for score in scores]


def test_completions_of_one_problem_are_scored_together():
    assert scored(ALONE) == [(3.0, 15)] * 15
    first, second = on_ranks(2, in_world, scored)
    assert first == second and {value for value, _ in first} == {3.0}
    assert {size for _, size in first} == {6, 9}, "neither rank scored all"


def test_opening_and_closing_reach_the_reward_that_is_divided():
    class Told(Among):
        heard = ()

        def open(self):
            self.heard += ("open",)

        def close(self):
            self.heard += ("close",)

    inner = Told()
    reward = DividedReward(inner, ALONE)
    reward.open()
    assert inner.heard == ("open",)
    reward.close()
    assert inner.heard == ("open", "close")
