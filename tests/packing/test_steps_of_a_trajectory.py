"""The steps of one trajectory in one batch: their contexts are prefixes of each other, so a forest holds each once."""

import random

from superrl.packing import forest
from superrl.records import Trajectory


def rollouts(contexts: list[tuple[int, ...]], length: int, each: int) -> list[Trajectory]:
    rng = random.Random(0)
    found = []
    for context in contexts:
        for _ in range(each):
            tokens = context + tuple(rng.randrange(10**9) for _ in range(length))
            mask = (False,) * len(context) + (True,) * length
            found.append(Trajectory(tokens, mask, (0.0,) * len(tokens), ""))
    return found


def test_ten_steps_with_eight_rollouts_each_compute_a_fifth_of_the_tokens():
    """Problem 200 tokens, step 60, rollout 100: the bar that the benchmark `srl_step.py` times."""
    rng = random.Random(1)
    solution = tuple(rng.randrange(10**9) for _ in range(200 + 60 * 10))
    sequences = rollouts([solution[: 200 + 60 * k] for k in range(10)], 100, 8)
    logical = sum(len(one.tokens) for one in sequences)
    assert logical == 8 * sum(300 + 60 * k for k in range(10)) == 45_600
    (pack,) = forest.pack(sequences, 16_384)
    # the longest context once, and all but the last token of every rollout, which predicts nothing
    assert pack.computed == 200 + 60 * 9 + 80 * 99
    assert logical / pack.computed > 5.0
    for budget in (4_096, 8_192):
        several = forest.pack(sequences, budget)
        assert all(one.computed <= budget for one in several)
        assert logical / sum(one.computed for one in several) > 4.5
