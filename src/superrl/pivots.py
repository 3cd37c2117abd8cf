"""Pivots: the problems on which the policy's own rollouts differ in reward, and are not yet good.

PivotRL (arXiv:2603.21383): before training, or again every so many steps, every problem is rolled out G times under
the current policy; it is kept iff the population variance of its rewards is above 0 and their mean below a bound. The
rest costs rollouts and teaches nothing: where all rewards are alike, so are all advantages.

In a run the pool is written to `pivots/step-N.json` of its folder, so that a resumed run goes on with the same one.
`superrl profile` keeps profiles in the cache folder. Leaves out scoring by equivalence, the paper's other half: that
is a reward's matter (`tool_call`, `judge`).
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from superrl.checkpoint import model_of
from superrl.config import ModelConfig, PromptConfig
from superrl.data.written import row_of, write_rows
from superrl.errors import RunError, UserError
from superrl.home import cache_folder
from superrl.parallel import ALONE, World
from superrl.records import Group, Request
from superrl.rewards.base import digest
from superrl.rollout import Environment, Listener, keyed, roll_out, score
from superrl.sampling.protocol import Sampler
from superrl.truncation import Truncation

PURPOSE = 2
"""In the seed keys of these rollouts (training has 0, evaluation 1): (seed, PURPOSE, *visit, problem, occurrence)."""

CHUNK = 256
"""Problems rolled out at a time: what is in memory, and after how many an answer is known. No draw depends on it."""

FOLDER = "pivots"


@dataclass(frozen=True, slots=True)
class Pivot:
    """Mean and population variance of the rewards of one problem's rollouts."""

    mean: float
    variance: float


def profile(
    groups: Sequence[Group],
    environment: Environment,
    sampler: Sampler,
    *,
    rollouts: int,
    seed: int,
    visit: tuple[int, ...] = (),
    heard: Listener | None = None,
) -> tuple[Pivot, ...]:
    """One pivot a group, in order, from `rollouts` rollouts each under the weights that the sampler holds."""
    visits = keyed([replace(group, trajectories=()) for group in groups], (seed, PURPOSE, *visit))
    found: list[Pivot] = []
    for start in range(0, len(visits), CHUNK):
        chunk = visits[start : start + CHUNK]
        drawn = roll_out([(Request(rollouts),)] * len(chunk), chunk, environment, sampler, heard)
        found += [pivot([one.value for one in group.scores]) for group in score(drawn, environment)]
    return tuple(found)


def pivot(rewards: Sequence[float]) -> Pivot:
    """Exact, so that equal rewards have variance 0.

    >>> pivot([0.1] * 7), pivot([0.0, 1.0])
    (Pivot(mean=0.1, variance=0.0), Pivot(mean=0.5, variance=0.25))
    """
    return Pivot(float(statistics.mean(rewards)), float(statistics.pvariance(rewards)))


def kept(pivots: Sequence[Pivot], below: float) -> tuple[int, ...]:
    """The indices of those that vary and whose mean is below the bound.

    >>> kept([Pivot(0.5, 0.1), Pivot(0.5, 0.0), Pivot(0.9, 0.1)], 0.9)
    (0,)
    """
    return tuple(i for i, one in enumerate(pivots) if one.variance > 0.0 and one.mean < below)


# In a run


def pool(
    groups: Sequence[Group],
    environment: Environment,
    sampler: Sampler,
    *,
    rollouts: int,
    below: float,
    every: int | None,
    folder: Path,
    data: str,
    stage: int,
    step: int,
    stage_step: int,
    seed: int,
    heard: Listener | None = None,
    note: Callable[[str], None] = lambda text: None,
    world: World = ALONE,
) -> tuple[int, ...]:
    """The indices of the stage's groups to draw from at this point of a run, in order.

    Profiled at the stage's first step and, with `every`, after each so many of its steps (`due`); the sampler holds
    the weights of `step` then. In between, and when a run is continued, the pool is read from the run's `folder`.
    `data` is the digest of the stage's problems. If a later profile keeps none, the pool stays as it was. Of the ranks
    of a `world` the first reads and writes.
    """
    profiled = stage_step - (stage_step % every if every else stage_step)
    began = step - stage_step
    asked = {"stage": stage, "data": data, "rollouts": rollouts, "below": below, "seed": seed}
    path = folder / FOLDER / f"step-{began + profiled}.json"
    known = world.first(lambda: _read(path, asked))
    if known is not None:
        return known
    if profiled < stage_step:
        raise RunError(f"{path} is missing or of another run: put it back, or start a new run")
    found = profile(groups, environment, sampler, rollouts=rollouts, seed=seed, visit=(stage, step), heard=heard)
    chosen = kept(found, below)
    told = f"pivots: {len(chosen):,} of {len(found):,} problems vary with a mean reward below {below:g}"
    if not chosen:
        before = None
        if every and profiled >= every:
            earlier = folder / FOLDER / f"step-{began + profiled - every}.json"
            before = world.first(lambda: _read(earlier, asked))
        if before is None:
            raise UserError(
                f"stages.{stage}.pivots: none of {len(found):,} problems has rollouts that differ and a mean reward "
                f"below {below:g} ({_why(found, below)}): raise `below` or `rollouts`, or take other data"
            )
        chosen, told = before, f"{told}: the {len(before):,} of before stay"
    values = [[one.mean, one.variance] for one in found]
    world.first(lambda: _write(path, {**asked, "step": step, "kept": list(chosen), "pivots": values}))
    note(told)
    return chosen


def due(stage_step: int, every: int | None) -> bool:
    """Whether the pool changes before this step of the stage (0 is its first)."""
    return stage_step == 0 or (every is not None and stage_step % every == 0)


def _read(path: Path, asked: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The pool in a file, if it answers this question."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(held, dict) or any(held.get(key) != value for key, value in asked.items()):
        return None
    return tuple(held["kept"])


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(value) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}): mend that, then start again") from error


def _why(found: Sequence[Pivot], below: float) -> str:
    """What is wrong with those that are not kept: `90 all alike, 10 at 0.9 or above`."""
    alike = sum(one.variance == 0.0 for one in found)
    good = sum(one.variance > 0.0 and one.mean >= below for one in found)
    return f"{alike:,} all alike, {good:,} at {below:g} or above"


# `superrl profile`


def profile_model(
    model: str,
    source: str,
    out: Path,
    *,
    rollouts: int,
    below: float,
    report: Path | None = None,
    limit: int | None = None,
    temperature: float = 1.0,
    truncation: Truncation | None = None,
    max_new_tokens: int | None = None,
    max_context: int | None = None,
    reward: Any = None,
    prompt: PromptConfig | None = None,
    seed: int = 0,
    heard: Listener | None = None,
) -> str:
    """`superrl profile`: write the kept problems of a source as rows to `out`, every problem's profile to `report`;
    what a person reads. A run folder stands for its newest checkpoint. A profile of the same weights, data and settings
    is taken from the cache folder."""
    from superrl import engine, models, setup
    from superrl.learner.copies import named_weights

    config = ModelConfig(name=model_of(model))
    workshop = setup.open_workshop(config, setup.Given(), lambda text: None)
    loaded = workshop.load(source, "train")
    loaded = replace(loaded, problems=loaded.problems[:limit])
    environment = workshop.environment(
        loaded,
        prompt=prompt,
        reward=reward,
        max_new_tokens=max_new_tokens,
        stop=(),
        temperature=temperature,
        truncation=truncation,
        where="profile",
    )
    with environment.reward:
        groups = workshop.prepared(loaded, environment, "keep", source, max_context).groups
        dtype = models.compute_dtype(config)
        settings = [str(dtype), workshop.model.device.type, rollouts, seed]
        path = _kept_in(groups, environment, [_weights_digest(workshop.model), *settings])
        found = _recalled(path, len(groups))
        if found is None:
            sampler = engine.new_sampler(workshop.model, workshop.tokenizer, dtype, [environment])
            sampler.load(dict(named_weights(workshop.model)), version=0)
            found = profile(groups, environment, sampler, rollouts=rollouts, seed=seed, heard=heard)
            if path is not None:
                _write(path, {"pivots": [astuple(one) for one in found]})
    chosen = kept(found, below)
    if report is not None:
        write_rows(report, _profile_rows(groups, found, frozenset(chosen)))
    if not chosen:
        raise UserError(f"none of {len(groups):,} problems is kept ({_why(found, below)}), so {out} was not written")
    whole = {problem.id: problem for problem in loaded.problems}
    rows = ({**row_of(whole[groups[i].problem.id]), "pivot": _numbers(found[i])} for i in chosen)
    write_rows(out, rows)
    return summary(found, below, out, loaded.defaults)


def summary(found: Sequence[Pivot], below: float, out: Path, brought: Mapping[str, Any]) -> str:
    """How many are kept, why the others are not, and what a stage on the rows must name, since rows bring nothing."""
    chosen = kept(found, below)
    lines = [
        f"{len(chosen):,} of {len(found):,} problems kept in {out}; left out: {_why(found, below)}",
        f"mean reward {statistics.fmean(one.mean for one in found):.3f}, of the kept "
        f"{statistics.fmean(found[i].mean for i in chosen):.3f}",
    ]
    if brought:
        lines += ["a stage on them needs what their source brought:"]
        lines += [f"  {key}: {json.dumps(value)}" for key, value in brought.items()]
    return "\n".join(lines)


def _profile_rows(groups: Sequence[Group], found: Sequence[Pivot], chosen: frozenset[int]) -> list[dict[str, Any]]:
    pairs = zip(groups, found, strict=True)
    return [{"id": g.problem.id, **_numbers(one), "kept": i in chosen} for i, (g, one) in enumerate(pairs)]


def _numbers(one: Pivot) -> dict[str, float]:
    return {"mean": one.mean, "variance": one.variance}


def _kept_in(groups: Sequence[Group], environment: Environment, settings: Sequence[Any]) -> Path | None:
    """The file of a profile: by all that it depends on; None where that cannot be known (a function of the user's)."""
    fingerprint = environment.reward.fingerprint
    if fingerprint is None:
        return None
    problems = [group.problem for group in groups]
    read = [[p.id, environment.reward.reads(p)] for p in problems]
    cut = environment.limits.truncation
    limits = [environment.limits.max_new_tokens, environment.limits.stop, environment.temperature]
    limits += [] if cut is None else [cut.model_dump()]
    told = [fingerprint, read, environment.renderer.contexts(problems), limits, settings]
    return cache_folder() / FOLDER / f"{digest(told)}.json"


def _recalled(path: Path | None, wanted: int) -> tuple[Pivot, ...] | None:
    """The profile in a file of the cache, if it is there and whole."""
    if path is None:
        return None
    try:
        found = tuple(Pivot(float(mean), float(variance)) for mean, variance in json.loads(path.read_bytes())["pivots"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if len(found) == wanted else None


def _weights_digest(model: Any) -> str:
    """Of every weight, by name."""
    import torch

    from superrl.learner.copies import named_weights

    told = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(named_weights(model), key=lambda pair: pair[0]):
        told.update(name.encode())
        told.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()
