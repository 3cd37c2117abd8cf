"""What a method reads and only a model can compute: noted on the groups before it plans, without gradient.

    demonstrations   demo_logp, demo_entropy      the policy, temperature 1, in nats
    rollouts         logp_ref                     the reference policy, at the rollout's temperature
                     logp_teacher                 the policy after another context, at the rollout's temperature
                     value, value_next            the critic before and after each token
    both             end_value                    the critic after the whole text, at the last token

Aligned with `tokens`: of a rollout, every drawn token and every token of its prefix has one; all others 0.0. Each model
goes over its sequences once. Leaves out weights and packs: who computes comes as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from superrl.methods.hooks import ended
from superrl.packing.pack import Pack, Tokens
from superrl.records import Group, Trajectory

Column = tuple[float, ...]
Notes = dict[str, Column]
Teachers = Sequence[Sequence[int] | None]
Ask = Callable[[Sequence[Tokens]], Sequence[Sequence[Column]]]
"""`ask(sequences)`: some columns of every sequence, each with one entry a token."""


@dataclass(frozen=True, slots=True)
class Models:
    """Who is asked: `policy` for (logp, entropy) or (logp,), `reference` for (logp,), `critic` for (value,)."""

    policy: Ask
    reference: Ask
    critic: Ask


@dataclass(frozen=True, slots=True)
class Row:
    """What is put through a model: not quite a trajectory."""

    tokens: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    temperature: float = 1.0


def annotate(groups: Sequence[Group], needs: frozenset[str], teachers: Teachers, models: Models) -> list[Group]:
    """The groups with what `needs` names. `teachers` has the token ids of a context, or None, for every group (empty:
    None for all); rollouts without one get no `logp_teacher`."""
    demonstrations = [d for group in groups for d in group.demonstrations]
    rollouts = [t for group in groups for t in group.trajectories]
    imitated, drawn = [Notes() for _ in demonstrations], [Notes() for _ in rollouts]
    contexts = [tuple(context or ()) for context in teachers or [None] * len(groups)]
    by_rollout = [context for group, context in zip(groups, contexts, strict=True) for _ in group.trajectories]
    _ask_policy(demonstrations, imitated, rollouts, drawn, by_rollout, needs, models.policy)
    if "logp_ref" in needs:
        rows = [Row(t.tokens, completion(t), t.temperature) for t in rollouts]
        for notes, (logp,) in zip(drawn, models.reference(rows), strict=True):
            notes["logp_ref"] = logp
    if "value" in needs:
        for notes, one, (values,) in zip(drawn, rollouts, models.critic([_valued(t) for t in rollouts]), strict=True):
            marked = completion(one)
            notes["value"] = tuple(v if here else 0.0 for v, here in zip(values[:-1], marked, strict=True))
            notes["value_next"] = tuple(v if here else 0.0 for v, here in zip(values[1:], marked, strict=True))
    if "end_value" in needs:
        _ask_ends(groups, imitated, drawn, models.critic)
    said, done = iter(imitated), iter(drawn)
    return [
        replace(group, demonstrations=_noted(group.demonstrations, said), trajectories=_noted(group.trajectories, done))
        for group in groups
    ]


def _ask_policy(
    demonstrations: Sequence[Trajectory],
    imitated: Sequence[Notes],
    rollouts: Sequence[Trajectory],
    drawn: Sequence[Notes],
    contexts: Sequence[tuple[int, ...]],
    needs: frozenset[str],
    policy: Ask,
) -> None:
    """What the policy says of demonstrations and, as a teacher, of rollouts: one pass over both."""
    rows = [Row(d.tokens, d.loss_mask) for d in demonstrations] if needs & {"demo_logp", "demo_entropy"} else []
    taught = [i for i, context in enumerate(contexts) if context] if "logp_teacher" in needs else []
    if not rows and not taught:
        return
    found = policy([*rows, *(_under(contexts[i], rollouts[i]) for i in taught)])
    for notes, columns in zip(imitated, found[: len(rows)], strict=bool(rows)):
        named = zip(("demo_logp", "demo_entropy"), columns, strict=False)
        notes |= {name: column for name, column in named if name in needs}
    for i, (logp, *_) in zip(taught, found[len(rows) :], strict=True):
        start = len(rollouts[i].tokens) - (len(logp) - len(contexts[i]))
        drawn[i]["logp_teacher"] = (0.0,) * start + logp[len(contexts[i]) :]


def _ask_ends(groups: Sequence[Group], imitated: Sequence[Notes], drawn: Sequence[Notes], critic: Ask) -> None:
    """What the critic says of whole texts, where a demonstration shows how a text ends."""
    experts, rollouts = iter(imitated), iter(drawn)
    todo: list[tuple[Trajectory, Notes, Row]] = []
    for group in groups:
        texts = [(one, next(experts)) for one in group.demonstrations]
        texts += [(one, next(rollouts)) for one in group.trajectories]
        todo += [(one, notes, _whole(one, group)) for one, notes in texts if group.demonstrations]
    for (one, notes, _), (values,) in zip(todo, critic([row for *_, row in todo]), strict=True):
        notes["end_value"] = (*(0.0,) * (len(one.tokens) - 1), values[-1])


def _whole(one: Trajectory, group: Group) -> Row:
    """A text that is over, with a token more, before which the critic is asked."""
    tokens = ended(one, group.demonstrations[0].tokens[-1])
    return Row((*tokens, 0), (False,) * len(tokens) + (True,))


def completion(one: Trajectory) -> tuple[bool, ...]:
    """The drawn tokens and those of the prefix: what a method may train of a rollout."""
    if not one.prefix or not one.length:
        return one.loss_mask
    first = one.start
    return tuple(drawn or first <= t < first + one.prefix for t, drawn in enumerate(one.loss_mask))


def aligned(
    sequences: Sequence[Tokens], packs: Iterable[Pack], compute: Callable[[Pack], Sequence[Tensor]], quantities: int = 1
) -> list[tuple[Column, ...]]:
    """The `quantities` that `compute` gives of a pack ([N] each), as columns of every sequence; 0.0 where it is not
    trained. Without gradient."""
    out = [[[0.0] * len(sequence.tokens) for _ in range(quantities)] for sequence in sequences]
    with torch.no_grad():
        for pack in packs:
            found = [one.tolist() for one in compute(pack)]
            for i, (row, position) in enumerate(zip(pack.sequence.tolist(), pack.position.tolist(), strict=True)):
                for column, values in zip(out[pack.items[row]], found, strict=True):
                    column[position] = values[i]
    return [tuple(map(tuple, columns)) for columns in out]


def _under(context: tuple[int, ...], one: Trajectory) -> Row:
    """A rollout's completion after another context."""
    start = one.start if one.length else len(one.tokens)
    return Row(context + one.tokens[start:], (False,) * len(context) + completion(one)[start:], one.temperature)


def _valued(one: Trajectory) -> Row:
    """A rollout with a token more, which stands for whatever would follow: every state before and after a token."""
    mask = completion(one)
    marked = tuple(before or after for before, after in zip((*mask, False), (False, *mask), strict=True))
    return Row((*one.tokens, 0), marked, one.temperature)


def _noted(trajectories: Sequence[Trajectory], notes: Iterator[Notes]) -> tuple[Trajectory, ...]:
    return tuple(
        replace(one, annotations={**one.annotations, **told}) if told else one
        for one, told in zip(trajectories, notes, strict=False)
    )
