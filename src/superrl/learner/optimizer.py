"""AdamW with a schedule, a clip and a guard: one optimizer step of one named state.

Leaves out gradients themselves (the learner fills `.grad`) and everything about losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from superrl.config import OptimizerConfig
from superrl.learner.sharding import placed, whole


def scheduled_lr(config: OptimizerConfig, step: int, total: int) -> float:
    """The learning rate of a stage's step (0-based): linear warm-up, then constant, linear to 0, or cosine to 0.

    >>> scheduled_lr(OptimizerConfig(lr=1.0, warmup_steps=4), 1, 10)
    0.5
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(total - config.warmup_steps, 1)
    if config.schedule == "linear":
        return config.lr * max(1.0 - progress, 0.0)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


class Optimizer:
    """AdamW on the trainable parameters; weight decay on matrices only."""

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], config: OptimizerConfig) -> None:
        self.config = config
        self.names = [name for name, _ in parameters]
        self.parameters = [parameter for _, parameter in parameters]
        matrices = [p for p in self.parameters if p.dim() >= 2]
        vectors = [p for p in self.parameters if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(  # fused: one pass over memory, and no copy of a parameter's size
            [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
        )

    def step(self, lr: float) -> float | None:
        """Clip and apply the gradients at rate `lr`; the norm before clipping, or None if it was not finite and the
        step was refused. Gradients are gone afterwards."""
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)))
        finite = math.isfinite(norm)
        if finite:
            for group in self.adam.param_groups:
                group["lr"] = lr
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm if finite else None

    def scales(self) -> list[Tensor]:
        """What Adam divides each parameter's gradient by after its last step, sqrt(second moment, bias-corrected) +
        eps; infinity where a parameter has had no gradient yet."""
        _, beta2 = self.config.betas
        found = []
        for parameter in self.parameters:
            if entry := self.adam.state.get(parameter):
                moment = entry["exp_avg_sq"] / (1.0 - beta2 ** float(entry["step"]))
                found.append(moment.sqrt() + self.config.eps)
            else:
                found.append(torch.full_like(parameter, torch.inf))
        return found

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and counts by `parameter/name`, for a safetensors file."""
        return {
            f"{name}/{key}": value.detach().contiguous()
            for name, parameter in zip(self.names, self.parameters, strict=True)
            for key, value in self.adam.state.get(parameter, {}).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name, parameter in zip(self.names, self.parameters, strict=True):
            entry: dict[str, Any] = {
                key.rpartition("/")[2]: value.clone() for key, value in state.items() if key.rpartition("/")[0] == name
            }
            for key, value in entry.items():
                entry[key] = value.to(parameter.device) if key == "step" else placed(value, parameter)
            if entry:
                self.adam.state[parameter] = entry
