"""superrl: post-train language models with reinforcement learning and supervision together.

superrl.train, superrl.evaluate      run a recipe, evaluate a model
superrl.Problem, Demonstration, Score   the records a reward function or a data loader meets
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Demonstration", "Problem", "Score", "UserError", "__version__", "evaluate", "train"]

if TYPE_CHECKING:
    from superrl.errors import UserError
    from superrl.face import evaluate, train
    from superrl.records import Demonstration, Problem, Score

_HOME = {
    "Demonstration": "records",
    "Problem": "records",
    "Score": "records",
    "UserError": "errors",
    "evaluate": "face",
    "train": "face",
}


def __getattr__(name: str) -> Any:
    """Load on first use, so that `import superrl` starts no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'superrl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"superrl.{_HOME[name]}"), name)
