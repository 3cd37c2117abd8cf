"""What an engine of somebody else's is asked for, and the trajectories made of what it returns.

Every completion is a request of its own with a seed of its own, a pure function of (key, sample), so that a draw
depends neither on its neighbours nor on the order of requests. Leaves out how the requests travel (`vllm.py`,
`vllm_server.py`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from superrl.errors import Diverged, RunError
from superrl.records import Stop, Trajectory
from superrl.sampling.protocol import Prompt, SamplingLimits, room
from superrl.sampling.stops import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Asked:
    """One completion to draw: after which prompt, at most how many tokens, with which seed (63 bits)."""

    prompt: Prompt
    budget: int
    seed: int

    def fields(self, limits: SamplingLimits, eos: Collection[int]) -> dict[str, Any]:
        """What vLLM is told, under the names that its own parameters and its server's requests share. Only `eos` and
        the stop strings end a completion, whatever the engine knows of the model. Where `truncation` cuts, vLLM reports
        log-probabilities of what is left: good enough to evaluate, not to learn from."""
        rules = {} if limits.truncation is None else limits.truncation.model_dump(include={"top_k", "top_p", "min_p"})
        cut = {name: value for name, value in rules.items() if value is not None}
        return {
            "temperature": self.prompt.temperature,
            "seed": self.seed,
            "max_tokens": self.budget,
            "logprobs": 0,  # of the drawn token alone
            "stop": list(limits.stop),
            "stop_token_ids": sorted(eos),
            "ignore_eos": True,
            **cut,
        }


@dataclass(slots=True)
class Answer:
    """What came back for one request: drawn tokens, their log-probabilities at the sampling temperature, and why it
    ended, in the engine's words."""

    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    finish: str | None = None
    reason: int | str | None = None


def asked(prompts: Sequence[Prompt], limits: SamplingLimits, max_length: int) -> list[Asked]:
    """Every completion that the prompts want, in order; a prompt that leaves no room for one is a UserError."""
    return [
        Asked(prompt, budget, seed_of(prompt.key, sample))
        for prompt in prompts
        for budget in [room(prompt, limits, max_length)]
        for sample in range(prompt.n)
    ]


def seed_of(key: Sequence[int], sample: int) -> int:
    """63 bits that are a pure function of (key, sample).

    >>> seed_of((0, 1), 2) == seed_of([0, 1], 2) != seed_of((0, 1), 3)
    True
    """
    name = repr((tuple(int(part) for part in key), int(sample)))
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def trajectories(
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    tokenizer: PreTrainedTokenizerBase,
    version: int,
    eos: Collection[int],
) -> list[list[Trajectory]]:
    """The answers, in the order of `asked`, as one list of trajectories a prompt."""
    following = iter(answers)
    return [list(_of_prompt(prompt, following, tokenizer, version, eos)) for prompt in prompts]


def _of_prompt(
    prompt: Prompt, answers: Iterator[Answer], tokenizer: PreTrainedTokenizerBase, version: int, eos: Collection[int]
) -> Iterator[Trajectory]:
    for _ in range(prompt.n):
        answer = next(answers)
        if not all(map(math.isfinite, answer.logp)):
            raise Diverged("the sampler's model produced logits that are not finite; the weights have diverged")
        if not answer.tokens or len(answer.tokens) != len(answer.logp):
            raise RunError(
                f"vLLM returned {len(answer.tokens)} tokens with {len(answer.logp)} log-probabilities for a prompt of "
                f"{len(prompt.tokens)} tokens (it ended by {answer.finish!r}): look at its log"
            )
        ahead = len(prompt.tokens)
        yield Trajectory(
            tokens=prompt.tokens + tuple(answer.tokens),
            loss_mask=(False,) * ahead + (True,) * len(answer.tokens),
            logp_sampler=(0.0,) * ahead + tuple(answer.logp),
            text=decode(tokenizer, answer.tokens),
            origin="policy",
            version=version,
            stop=stop_of(answer, eos),
            temperature=prompt.temperature,
            entropy=-math.fsum(answer.logp) / len(answer.logp) if prompt.temperature > 0 else None,
        )


def stop_of(answer: Answer, eos: Collection[int]) -> Stop:
    """Why a completion ended."""
    if answer.finish == "length":
        return "length"
    if answer.finish == "stop" and isinstance(answer.reason, str):
        return "stop"
    if answer.finish == "stop" and answer.tokens[-1] in eos:
        return "eos"
    raise RunError(f"vLLM ended a completion by {answer.finish!r} ({answer.reason!r}): look at its log")
