"""The critic: what reward a trajectory may expect before each of its tokens, read off hidden states of the same packs.

    V(state before token t) = w . h(t - 1) + b,   in float32, w = b = 0 at the start of a stage

`head`: h is the policy's last hidden state, and the gradient flows on into the policy's trunk. `model`: h is that of a
trunk of the critic's own, which starts as a copy of the policy's. What it learns has a learning rate of its own, which
is scheduled as the policy's, and is clipped by its own norm. Leaves out losses: a method trains `View.value` in a
stream of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from superrl.config import OptimizerConfig
from superrl.learner.copies import plain_copy
from superrl.learner.forward import head, hidden_states, trunk
from superrl.learner.optimizer import Optimizer, scheduled_lr
from superrl.methods.hooks import CriticOptions
from superrl.packing.pack import Pack


class Critic:
    """A linear head, a trunk if it has its own, and their optimizer state; made anew for every stage."""

    def __init__(self, model: nn.Module, options: CriticOptions, config: OptimizerConfig) -> None:
        self.options = options
        weight = cast(Tensor, head(model).weight)
        self.trunk = trunk(plain_copy(model)).requires_grad_(True) if options.kind == "model" else None
        self.head = torch.nn.utils.skip_init(nn.Linear, weight.shape[1], 1, device=weight.device, dtype=torch.float32)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.config = config.model_copy(update={"lr": options.lr})
        self.optimizer = Optimizer(self.parameters(), self.config)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All it learns, by name."""
        own = [] if self.trunk is None else list(self.trunk.named_parameters(prefix="trunk"))
        return own + list(self.head.named_parameters(prefix="head"))

    def values(self, policy: nn.Module, pack: Pack, compute_dtype: torch.dtype) -> Tensor:
        """[N]: the value before every trained token of a pack; differentiable. Computes nothing of the policy that it
        does not read."""
        if self.trunk is None:
            return self.of(hidden_states(trunk(policy), pack, compute_dtype), pack, compute_dtype)
        return self.of(None, pack, compute_dtype)

    def of(self, rows: Tensor | None, pack: Pack, compute_dtype: torch.dtype) -> Tensor:
        """The same where the policy's hidden states [E, H] are already there."""
        if self.trunk is not None:
            rows = hidden_states(self.trunk, pack, compute_dtype)
        assert rows is not None, "a head reads the policy's hidden states"
        with torch.autocast(pack.tokens.device.type, enabled=False):
            values: Tensor = self.head(rows.float()).squeeze(1)
        return values.index_select(0, pack.edge)

    def learns_alone(self, step: int) -> bool:
        """Whether the policy stands still in this step of the stage (0-based)."""
        return step < self.options.warmup_steps

    @property
    def finite(self) -> bool:
        """Whether its gradient is."""
        gradients = [p.grad for _, p in self.parameters() if p.grad is not None]
        return math.isfinite(float(nn.utils.get_total_norm(gradients)))

    def step(self, step: int, steps: int, lr_scale: float) -> float:
        """Take a gradient that is finite, at the rate of the stage's step (0-based); its norm before clipping."""
        norm = self.optimizer.step(scheduled_lr(self.config, step, steps) * lr_scale)
        assert norm is not None, "the critic's gradient was finite a moment ago"
        return norm

    def clear(self) -> None:
        """Drop its gradient."""
        for _, parameter in self.parameters():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Weights and optimizer moments, for a safetensors file."""
        weights = {f"weights/{name}": p.detach().contiguous() for name, p in self.parameters()}
        return weights | {f"optimizer/{key}": value for key, value in self.optimizer.state().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name, parameter in self.parameters():
            parameter.copy_(state[f"weights/{name}"])
        prefix = "optimizer/"
        self.optimizer.load_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def reached(parameters: Sequence[tuple[str, nn.Parameter]]) -> bool:
    """Whether any of them has a gradient that is not zero."""
    return any(p.grad is not None and bool(p.grad.any()) for _, p in parameters)
