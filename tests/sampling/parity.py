"""How far a sampler's trajectories are from what a model says of them, a sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from superrl.records import Trajectory
from superrl.sampling.protocol import Prompt

QUESTIONS = [f">{a}{sign}{b}*2=" for a in range(2, 7) for b in range(3, 7) for sign in "+"]


def prompts(tokenizer, n: int = 1, temperature: float = 0.0) -> list[Prompt]:
    """Twenty prompts."""
    ids = [tokenizer(question, add_special_tokens=False)["input_ids"] for question in QUESTIONS]
    return [Prompt(tuple(tokens), n, (7, i), temperature) for i, tokens in enumerate(ids)]


@torch.no_grad()
def unsure(model: PreTrainedModel) -> PreTrainedModel:
    """The model with logits of a third: it knew its answers so well that every draw was the same."""
    model.model.norm.weight.mul_(1 / 3)
    return model


@torch.no_grad()
def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The model after a step that nobody would take."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter += 0.3 * parameter.abs().mean() * torch.randn_like(parameter)
    return model


@torch.no_grad()
def tables(model: PreTrainedModel, trajectory: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """The drawn tokens [T], and the log-probabilities [T, V] of every token in their places, at their temperature."""
    first = trajectory.loss_mask.index(True)
    logits = model(torch.tensor([trajectory.tokens])).logits[0].float()[first - 1 : -1]
    return torch.tensor(trajectory.tokens[first:]), (logits / (trajectory.temperature or 1.0)).log_softmax(-1)


def is_greedy(model: PreTrainedModel, trajectory: Trajectory) -> bool:
    """Whether the model would draw the same at temperature 0."""
    drawn, logp = tables(model, trajectory)
    return torch.equal(drawn, logp.argmax(-1))


def gaps(model: PreTrainedModel, trajectories: Sequence[Trajectory]) -> torch.Tensor:
    """|log p of the sampler - log p of the model| of every drawn token."""
    found = []
    for trajectory in trajectories:
        drawn, logp = tables(model, trajectory)
        theirs = torch.tensor(trajectory.logp_sampler)[-len(drawn) :]
        found.append((logp.gather(-1, drawn[:, None])[:, 0] - theirs).abs())
    return torch.cat(found)
