"""RL-PLUS (arXiv:2508.00222): a demonstration in the group, weighed by a ratio to a mixture, and more where it is new.

    L_demo = -A s((1 - p)^0.5) 2 p / (p_old + 0.5 (p_old + 1)),     no clip;    A = GRPO's, with the demonstration in it

p_old is the policy before the step, and the denominator stands for the demonstration's unknown behaviour policy.
Formula read in the paper; the skeleton is `luffy`'s, with GRPO's deviation, clip and reduction on rollouts: our choice.
The demonstration is stream `expert`, not `sft`: p_old is then kept over several updates a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from superrl.config import Frozen
from superrl.methods.luffy import GroupedOptions, Luffy
from superrl.methods.options import ImitationName
from superrl.records import View


class RlPlusOptions(GroupedOptions):
    """RL-PLUS's shaping on GRPO."""

    imitation: ImitationName = "rl-plus"


class RlPlus(Luffy):
    """Policy gradient over rollouts and a demonstration, which pulls where it is unlikely but not lost."""

    name: ClassVar[str] = "rl-plus"
    Options: ClassVar[type[Frozen]] = RlPlusOptions
    stream: ClassVar[str] = "expert"

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """The policy gradient's, and how likely the demonstrations are."""
        return {**super().telemetry(view), **of_experts(view, self.stream)}


def of_experts(view: View, stream: str) -> dict[str, tuple[float, float]]:
    """`demo/nll` and `demo/probability` of the demonstrations that a method trains in a stream of its own."""
    logp = view.logp[view.of(stream)].double()
    n = float(len(logp))
    return {"demo/nll": (float(-logp.sum()), n), "demo/probability": (float(logp.exp().sum()), n)}
