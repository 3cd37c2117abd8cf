"""A sampler whose prompts are dealt out among the processes of a run; every one gets all completions.

A draw depends on its prompt's key alone, so a deterministic engine draws the same whatever the number of processes.
Leaves out how completions are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from superrl.parallel import World, dealt
from superrl.records import Trajectory
from superrl.sampling.protocol import Prompt, Sampler, SamplingLimits

if TYPE_CHECKING:
    from torch import Tensor


class ShardedSampler:
    """The `Sampler` of one rank, made one of all; `inner` is None where only rank 0 has an engine (a server)."""

    def __init__(self, inner: Sampler | None, world: World) -> None:
        self.inner = inner
        self.world = world
        self.engines = world.each(lambda: inner is not None)

    def sample(
        self, prompts: Sequence[Prompt], limits: SamplingLimits, on_tokens: Callable[[int], None] | None = None
    ) -> list[list[Trajectory]]:
        """One list of `n` trajectories a prompt, in the order given, on every rank."""
        costs = [prompt.n * (len(prompt.tokens) + limits.max_new_tokens) for prompt in prompts]
        hands = iter(dealt(costs, sum(self.engines)))
        shares = [next(hands) if engine else [] for engine in self.engines]
        return self.world.spread(
            prompts, shares, lambda mine: [] if self.inner is None else self.inner.sample(mine, limits, on_tokens)
        )

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Take over the learner's weights."""
        if self.inner is not None:
            self.inner.load(weights, version)

    def sleep(self) -> None:
        """Let this rank's engine sleep."""
        if self.inner is not None:
            self.inner.sleep()

    def close(self) -> None:
        """Close this rank's engine."""
        if self.inner is not None:
            self.inner.close()
