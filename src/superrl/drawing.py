"""What a step learns from: problems in order, rolled out, scored, retried, and drawn on until enough teach something.

Only the sampler is asked, so this may go on beside the training of the step before. Leaves out what is learnt from the
groups (`training`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from superrl import pivots
from superrl.position import Batch, Position
from superrl.records import Group
from superrl.rollout import Listener, keyed, refill, retry, roll_out, score
from superrl.setup import Stage
from superrl.timing import Clock

if TYPE_CHECKING:
    from superrl.opening import Run

ROLLOUT = 0
"""The purpose in a rollout's seed keys: (seed, ROLLOUT, stage, step, attempt, problem, occurrence)."""


def collect(run: Run, stage: Stage, position: Position, heard: Listener) -> Batch:
    """What the step at `position` learns from; `heard` hears how many tokens were drawn."""
    config, method, cursor, clock = stage.config, stage.method, position.cursor, Clock()
    drawn: list[Group] = []
    with clock("rollout"):
        among = _pool(run, stage, position, heard)
    if config.pivots is not None and pivots.due(position.stage_step, config.pivots.every):
        profiles = position.stage_step // (config.pivots.every or 1)
        cursor = profiles * len(among)  # a place in the order of another pool says nothing: a fresh epoch

    def draw(count: int, attempt: int) -> list[Group]:
        nonlocal cursor
        indices = stage.take(among, cursor, count, run.session.recipe.seed)
        cursor += len(indices)
        visit = (run.session.recipe.seed, ROLLOUT, stage.index, position.step, attempt)
        groups = keyed([stage.groups[i] for i in indices], visit)
        if not method.rolls_out:
            return groups
        with clock("rollout"):
            requests = method.requests(groups, position.method_state)
            groups = roll_out(requests, groups, stage.environment, run.sampler, heard)
        with clock("reward"):
            groups = score(groups, stage.environment)
        with clock("rollout"):
            wanted = partial(method.retry, state=position.method_state)
            groups = retry(wanted, groups, stage.environment, run.sampler, heard)
        drawn.extend(groups)
        return groups

    def batch(groups: Sequence[Group], carried: tuple[Group, ...]) -> Batch:
        asked = method.asked(position.method_state) if method.rolls_out else {}
        seconds = {phase: clock.seconds[phase] for phase in ("rollout", "reward")}
        return Batch(tuple(groups), tuple(drawn), cursor, carried, asked, seconds)

    if config.refill is None or not method.rolls_out:
        return batch(draw(config.prompts_per_step, 0), position.carried)
    keep = config.refill.keep or method.refill_keeps
    exact = config.order == "shuffled"
    filled = refill(draw, config.prompts_per_step, config.refill, keep, position.carried, exact=exact)
    return batch(filled.groups, filled.carried)


def _pool(run: Run, stage: Stage, position: Position, heard: Listener) -> Sequence[int]:
    """The indices of the groups to draw from: all of the stage's, or its pivots."""
    wanted = stage.config.pivots
    if wanted is None:
        return range(len(stage.groups))
    return pivots.pool(
        stage.groups,
        stage.environment,
        run.sampler,
        **wanted.model_dump(),
        folder=run.folder.path,
        data=stage.digest,
        stage=stage.index,
        step=position.step,
        stage_step=position.stage_step,
        seed=run.session.recipe.seed,
        heard=heard,
        note=run.progress.note,
        world=run.world.aside,
    )
