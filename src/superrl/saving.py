"""What a run keeps: its checkpoints, the reference policy of a stage, a reward model, and the last step on the way out.

The first process writes, and the others wait until it has; where weights are split they hand over theirs. Leaves out
when to save (`training`) and what is in it (`persistence`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from superrl import persistence
from superrl.errors import Elsewhere, Interrupted, RunError, UserError
from superrl.opening import Run
from superrl.position import Position


def keep_reference(run: Run, position: Position) -> None:
    """Write the weights that a stage begins with, for methods that measure a distance from them."""

    def write() -> None:
        persistence.save_reference(run.folder, run.learner, position)

    _write(run, write, lambda: persistence.hand_over_reference(run.learner))


def keep_classifier(run: Run, name: str) -> None:
    """Write a reward model that a stage has trained to the run's folder `name`."""
    run.world.first(lambda: persistence.save_classifier(run.folder, run.learner, run.session.tokenizer, name))


def rescue(run: Run, position: Position, error: Exception) -> None:
    """On the way out, save the last whole step, if the learner still stands there. All ranks leave together; where one
    is lost, the first does what it can alone."""
    with suppress(RunError, UserError, Interrupted, Elsewhere):  # of another rank, at the same time
        run.world.know(error)
    if run.world.rank and run.world.over:
        return
    between = position.step > 0 and position.stage_step == 0  # the checkpoint of this step is the stage before's
    if between or run.learner.busy or run.learner.progress.step != position.stage_step:
        return
    try:
        save(run, position, alone=run.world.over)
    except RunError as error:
        run.progress.note(str(error))
    else:
        run.progress.note(f"saved after step {position.step}: continue with --out {run.folder.path} --resume")


def save(run: Run, position: Position, alone: bool = False) -> None:
    """Write a checkpoint; every rank returns when it is whole. `alone`: the others are not waited for."""
    digest, keep = run.session.stages[position.stage].digest, run.session.recipe.checkpoint.keep

    def write() -> None:
        persistence.save(run.folder, run.learner, run.session.tokenizer, position, digest, keep)

    if not alone:
        _write(run, write, lambda: persistence.hand_over(run.learner))
    elif run.learner.is_split:
        raise RunError("the weights are split, and without the lost process there is no checkpoint of this step")
    else:
        write()


def _write(run: Run, write: Callable[[], None], hand_over: Callable[[], None]) -> None:
    """The first rank writes; the others hand over what only they have, if weights are split. All return when it is
    done."""
    if run.learner.is_split:
        run.world.together(hand_over if run.world.rank else write, joint=True)
    else:
        run.world.first(write)
