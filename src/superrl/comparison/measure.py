"""What is looked at in a finished run's model, and in its base: the distance from the base, what was taken from the
expert, pass@k.

Each measure draws completions of its own at temperature 1, keyed by the run's seed, and what it finds is a small JSON
mapping. Leaves out training, files (`work`) and means over seeds (`likeness`, `passes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from superrl import data, setup
from superrl.comparison.drift import kl_from_base
from superrl.comparison.likeness import nearest
from superrl.comparison.results import SETS, Likeness
from superrl.comparison.subject import Heard, Subject
from superrl.errors import UserError
from superrl.metrics import mean
from superrl.records import Group, Problem
from superrl.rollout import Environment, score

Json = dict[str, Any]
T = TypeVar("T")

IMITATION, PASSES = 3, 4
"""Purposes in the seed keys of completions: rollouts have 0, evaluations 1, the distance from the base 2."""
SUCCESSES = 4
"""Completions a problem among which a model's own successes are looked for."""


def distance(subject: Subject, asked: Json, heard: Heard) -> Json:
    """`kl_from_base`, in nats a token."""
    found = kl_from_base(subject, heard)
    if found is not None and not math.isfinite(found):
        raise ValueError(f"it came out as {found}")
    return {"kl_from_base": found}


def passes(subject: Subject, asked: Json, heard: Heard) -> Json:
    """How many of `asked["samples"]` completions solve each of the first `asked["problems"]` test problems, by id."""
    recipe = subject.recipe
    limit = min(asked["problems"], recipe.evaluation.limit or asked["problems"])
    settings = recipe.evaluation.model_copy(update={"limit": limit})
    wanted = setup.evaluation(subject.workshop, "test", asked["data"], settings, recipe.stages[-1])
    with wanted.environment.reward:
        drawn = subject.draw(wanted.groups, wanted.environment, asked["samples"], PASSES, heard)
        scored = score(drawn, wanted.environment)
    if any(one.correct is None for group in scored for one in group.scores):
        raise UserError(f"the reward of {asked['data']} does not say what is correct")
    return {"correct": {group.problem.id: sum(bool(one.correct) for one in group.scores) for group in scored}}


def imitation(subject: Subject, asked: Json, heard: Heard) -> Json:
    """A `Likeness` for demonstrated training problems and for held-out ones, under the training's prompt and reward.

    Held out: the demonstrated problems of `asked["held_out"]`, a test set, else of validation, that are no training
    problems; None where there are none, and none at all where nothing is demonstrated.
    """
    recipe, workshop = subject.recipe, subject.workshop
    stage = recipe.stages[-1]
    loaded = workshop.load(stage.train or recipe.data.train, "train")
    if not any(problem.demonstrations for problem in loaded.problems):
        return {}
    environment = workshop.environment(
        loaded, prompt=stage.prompt, reward=stage.reward, max_new_tokens=stage.max_new_tokens, stop=stage.stop,
        temperature=1.0, where=f"stages.{len(recipe.stages) - 1}",
    )  # fmt: skip
    seen = {_question(problem) for problem in loaded.problems}
    found: Json = {}
    with environment.reward:
        for name, source, problems in _sets(subject, asked["held_out"], loaded, seen):
            few = replace(loaded, problems=tuple(spread(problems, asked["problems"])), dropped={})
            groups = workshop.prepared(few, environment, recipe.data.unverified, source).groups
            if name not in found and (groups := tuple(group for group in groups if group.demonstrations)):
                found[name] = {"source": source, **asdict(_likeness(subject, groups, environment, heard))}
            if len(found) == len(SETS):
                break
    return found


def _sets(
    subject: Subject, test: str, train: data.Loaded, seen: set[str]
) -> Iterator[tuple[str, str, Sequence[Problem]]]:
    """(set, source, its demonstrated problems): training problems, then every candidate for the held-out set."""
    yield SETS[0], "training", [problem for problem in train.problems if problem.demonstrations]
    validation = subject.recipe.data.validation or []
    names = [("test", test)]
    names += [("validation", name) for name in ([validation] if isinstance(validation, str) else validation)]
    for split, name in names:
        loaded = subject.workshop.load(name, "test" if split == "test" else "validation")
        fresh = [one for one in loaded.problems if one.demonstrations and _question(one) not in seen]
        if fresh:
            yield SETS[1], name, fresh


def _likeness(subject: Subject, groups: Sequence[Group], environment: Environment, heard: Heard) -> Likeness:
    experts = [expert for group in groups for expert in group.demonstrations]
    total = sum(-math.fsum(logp) for logp in subject.logprobs(experts))
    scored = score(subject.draw(groups, environment, SUCCESSES, IMITATION, heard), environment)
    judged = [one for group in scored for one in group.scores if one.correct is not None]
    alike = []
    for group in scored:
        known = [demonstration.text for demonstration in group.problem.demonstrations]
        own = [one.text for one in group.trajectories if one.score is not None and one.score.correct]
        if own:
            alike.append(math.fsum(nearest(text, known) for text in own) / len(own))
    return Likeness(
        problems=len(groups),
        nll=total / sum(expert.length for expert in experts),
        correct=mean(float(bool(one.correct)) for one in judged),
        solved=len(alike),
        similarity=mean(alike),
    )


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly spread over all: of a mixture of sources, some of each."""
    n = min(most, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def _question(problem: Problem) -> str:
    return repr([sorted(message.items()) for message in problem.messages])


MEASURES: Mapping[str, Callable[[Subject, Json, Heard], Json]] = {
    "kl": distance,
    "imitation": imitation,
    "passes": passes,
}
"""What stands in NAME.json of a run's folder, and how it is found."""
