"""What the loop asks of an engine that generates: `sample` and `load`, and between them `sleep`.

Engines: `local.py` (in-process, any causal LM of transformers) and, with the `vllm` extra, `vllm.py` and
`vllm_server.py`. Everything random comes from `Prompt.key`, so that a draw depends on neither its neighbours in the
batch nor on global state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from superrl.errors import UserError
from superrl.records import Trajectory
from superrl.truncation import Truncation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prompt:
    """`n` completions wanted after `tokens`. `key` seeds the draws: completion j's token at position t is drawn with
    the uniform number that is a pure function of (key, j, t). Temperature 0 is greedy. The last `drawn` of `tokens`
    count towards `max_new_tokens`: the beginning of the completion, written by somebody else."""

    tokens: tuple[int, ...]
    n: int
    key: tuple[int, ...]
    temperature: float = 1.0
    drawn: int = 0


@dataclass(frozen=True, slots=True)
class SamplingLimits:
    """What ends a completion: `max_new_tokens` (stop = "length"), an EOS token ("eos", kept in the tokens) or one of
    the `stop` strings in the decoded completion ("stop": the tokens up to the one that completed it are kept).

    `truncation` says which tokens may be drawn (None: all; greedy draws are what they are). Log-probabilities and
    entropies are those of the whole distribution all the same."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    truncation: Truncation | None = None


def room(prompt: Prompt, limits: SamplingLimits, max_length: int) -> int:
    """How many tokens may be drawn after a prompt, in a context of `max_length`; a UserError if none."""
    length = len(prompt.tokens)
    if length == 0:
        raise UserError("a prompt has no tokens; it needs at least one, such as the model's BOS")
    if limits.max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {limits.max_new_tokens}")
    assert prompt.drawn < limits.max_new_tokens, "a method's prefix leaves no token to draw"
    budget = min(limits.max_new_tokens - prompt.drawn, max_length - length)
    if budget < 1:
        raise UserError(
            f"a prompt of {length} tokens leaves no room for a completion in a context of {max_length}; "
            "shorten or drop it"
        )
    return budget


class Sampler(Protocol):
    """The owner of key/value caches and of a copy of the weights."""

    def sample(
        self, prompts: Sequence[Prompt], limits: SamplingLimits, on_tokens: Callable[[int], None] | None = None
    ) -> list[list[Trajectory]]:
        """One list of `n` trajectories a prompt, in the order given. `on_tokens(k)` hears that k tokens were drawn."""
        ...

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Take over the learner's weights; trajectories drawn from now on carry `version`."""
        ...

    def sleep(self) -> None:
        """Nothing is sampled before the next `load`: what an engine can do without until then, it may give back."""
        ...

    def close(self) -> None:
        """Give back what it holds of the machine; nothing is sampled after it."""
        ...
