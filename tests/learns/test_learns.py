"""It learns: real sampler, real learner, a real (random, tiny) model, and tasks solved in seconds.

Two one-prompt tasks. `easy`: start with one of twenty letters, which chance finds. `hard`: one exact four-digit answer,
which 8 draws find once in a hundred million steps, and of which there is one demonstration.
"""

from dataclasses import replace

import pytest
import torch

from builders import tiny_llama
from small_tokenizers import byte_tokenizer
from superrl.config import OptimizerConfig, PromptConfig
from superrl.learner.learner import Learner, Schedule
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.records import Demonstration, Group, Problem, Request, Score
from superrl.rewards.base import Reward
from superrl.rollout import Environment, roll_out, score
from superrl.sampling.local import LocalSampler
from superrl.sampling.protocol import SamplingLimits
from superrl.text import Renderer

TOKENIZER = byte_tokenizer()
EOS = TOKENIZER.eos_token_id


class StartsWith(Reward):
    """1 if the completion starts with one of the answers."""

    gives_correct = True
    fingerprint = None

    def score(self, problems, completions):
        right = [c.startswith(tuple((p.answer or "").split())) for p, c in zip(problems, completions, strict=True)]
        return [Score(float(r), r) for r in right]


def learn(name, problems, steps, lr=0.01, staleness=0, **options):
    """Train a random model; the share of correct rollouts of each problem over the last five steps. What a step learns
    from was drawn `staleness` steps before."""
    model = tiny_llama(vocab_size=len(TOKENIZER), initializer_range=0.05)
    sampler = LocalSampler(tiny_llama(vocab_size=len(TOKENIZER)), TOKENIZER, eos_ids=[EOS], slots=16)
    renderer = Renderer(TOKENIZER, PromptConfig(), EOS)
    environment = Environment(renderer, SamplingLimits(5), 1.0, StartsWith())
    learner = Learner(model, torch.float32, Schedule(OptimizerConfig(lr=lr), steps, 1, 1, 4096, 0))
    method = build({"name": name, **options}, Limits(8, 5))
    experts = {p.id: tuple(renderer.demonstration(p, d) for d in p.demonstrations) for p in problems}
    history, waiting = [], []
    for step in range(steps + staleness):
        sampler.load(learner.weights(), step)
        groups = [Group(p, (), experts[p.id], (0, 0, 0, step, 0, i)) for i, p in enumerate(problems)]
        groups = roll_out([(Request(8),) for _ in problems], groups, environment, sampler, None)
        groups = score(groups, environment)
        waiting.append(groups)
        if step >= staleness:
            learner.step(method.plan(waiting.pop(0), {}).updates, method, version=step)
        history.append([sum(bool(s.correct) for s in g.scores) / 8 for g in groups])
    return [sum(column[-5:]) / 5 for column in zip(*history, strict=True)]


def problem(name, answer, *demonstrations):
    return Problem(name, ({"role": "user", "content": name},), answer, tuple(map(Demonstration, demonstrations)))


EASY, HARD = problem("easy", " ".join("abcdefghijklmnopqrst")), problem("hard", "7294", "7294")


def test_grpo_solves_what_chance_finds():
    (easy,) = learn("grpo", [EASY], steps=80)
    assert easy > 0.8


def test_grpo_learns_from_rollouts_of_the_step_before():
    (easy,) = learn("grpo", [EASY], steps=80, staleness=1)
    assert easy > 0.8


@pytest.mark.parametrize("name", ["grpo", "superrl"])
def test_without_a_demonstration_the_hard_problem_stays_unsolved(name):
    (hard,) = learn(name, [replace(HARD, demonstrations=())], steps=40)
    assert hard == 0.0


def test_superrl_solves_both():
    easy, hard = learn("superrl", [EASY, HARD], steps=110)
    assert easy > 0.8 and hard > 0.8


def test_sft_learns_its_demonstration():
    (hard,) = learn("sft", [HARD], steps=50)
    assert hard > 0.8
