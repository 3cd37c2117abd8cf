"""One step of the training loop in small: a random model of two layers, real sampler, real learner, no files.

What `superrl.training` does between two checkpoints, so that a method's hooks are all asked and all answered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from builders import tiny_llama
from small_tokenizers import byte_tokenizer
from superrl.config import OptimizerConfig, PromptConfig
from superrl.learner.learner import Learner, Schedule
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.metrics import row
from superrl.records import Demonstration, Group, Plan, Problem, Request, Score, StepRecord
from superrl.rewards.base import Reward
from superrl.rollout import Environment, keyed, retry, roll_out, score
from superrl.sampling.local import LocalSampler
from superrl.sampling.protocol import SamplingLimits
from superrl.telemetry import numbers, of_decisions, of_groups, of_learner
from superrl.text import Renderer

TOKENIZER = byte_tokenizer()
EOS = TOKENIZER.eos_token_id
LONGEST = 5


class StartsWith(Reward):
    """1 if the completion starts with one of the answers."""

    gives_correct = True
    fingerprint = None

    def score(self, problems, completions):
        right = [c.startswith(tuple((p.answer or "").split())) for p, c in zip(problems, completions, strict=True)]
        return [Score(float(r), r) for r in right]


def problem(name: str, answer: str, *demonstrations: str) -> Problem:
    return Problem(name, ({"role": "user", "content": name},), answer, tuple(map(Demonstration, demonstrations)))


EASY = problem("easy", " ".join("abcdefghijklmnopqrst"), "abcd")
"""Starts with one of twenty letters, which chance finds."""
HARD = problem("hard", "7294", "7294")
"""One exact answer, which 8 draws find once in a hundred million steps, and of which there is one demonstration."""


class Loop:
    """A method with all it needs; `step` takes one step and keeps its state, as JSON does."""

    def __init__(self, config: dict[str, Any], problems: Sequence[Problem], *, steps=100, lr=0.01, size=8) -> None:
        model = tiny_llama(vocab_size=len(TOKENIZER), initializer_range=0.05)
        self.sampler = LocalSampler(tiny_llama(vocab_size=len(TOKENIZER)), TOKENIZER, eos_ids=[EOS], slots=16)
        self.renderer = Renderer(TOKENIZER, PromptConfig(), EOS)
        self.environment = Environment(self.renderer, SamplingLimits(LONGEST), 1.0, StartsWith())
        self.method = build(config, Limits(size, LONGEST))
        schedule = Schedule(OptimizerConfig(lr=lr, max_grad_norm=1.0), steps, 1, 1, 4096, 0)
        self.learner = Learner(model, torch.float32, schedule)
        self.learner.begin(schedule, self.method.critic, "logp_ref" in self.method.needs)
        self.groups = [Group(p, (), self._experts(p)) for p in problems]
        self.state = self.method.initial_state()
        self.number = 0

    def planned(self) -> tuple[list[Group], Plan]:
        """Rolled out, scored, retried, annotated, decided; nothing is learnt."""
        self.sampler.load(self.learner.weights(), self.number)
        groups = keyed(self.groups, (0, 0, 0, self.number, 0))
        if self.method.rolls_out:
            requests = self.method.requests(groups, self.state)
            groups = score(roll_out(requests, groups, self.environment, self.sampler, None), self.environment)
            again = partial(self.method.retry, state=self.state)
            groups = retry(again, groups, self.environment, self.sampler, None)
        asked = [self.method.teacher(group, self.state) for group in groups]
        contexts = [m and self.renderer.context(g.problem, messages=m) for g, m in zip(groups, asked, strict=True)]
        groups = self.learner.annotate(groups, self.method.needs, contexts)
        return groups, self.method.plan(groups, self.state)

    def step(self) -> list[Group]:
        """One whole step; its groups."""
        groups, plan = self.planned()
        own = {**self.method.asked(self.state), **plan.metrics}
        means = self.learner.step(plan.updates, self.method, version=self.number)
        self.number += 1
        told = of_groups(groups) | of_decisions(groups, plan.decisions) | of_learner(means, ("pg", "sft"))
        metrics = row({**told, **{f"method/{k}": v for k, v in own.items()}, "step": self.number})
        record = StepRecord(self.number, numbers(metrics), plan.decisions)
        self.state = json.loads(json.dumps(self.method.after_step(record, groups, self.state)))
        return groups

    def accuracy(self) -> list[float]:
        """The share of correct ones among 16 rollouts of every problem, without help, under the weights as they are."""
        self.sampler.load(self.learner.weights(), self.number)
        visits = keyed(self.groups, (1, 0))
        drawn = roll_out([(Request(16),) for _ in visits], visits, self.environment, self.sampler, None)
        return [sum(bool(s.correct) for s in group.scores) / 16 for group in score(drawn, self.environment)]

    def _experts(self, one: Problem):
        made = [self.renderer.demonstration(one, d) for d in one.demonstrations]
        scores = self.environment.reward.score([one] * len(made), [m.text for m in made])
        return tuple(replace(m, score=s) for m, s in zip(made, scores, strict=True))
