"""What a recipe names by its path, `python:package.module.attribute`: a reward's function or a method's class.

The working directory is importable, so that a file beside the recipe is enough. Whatever is wrong is one sentence.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from superrl.errors import UserError, nearest, one_line

PREFIX = "python:"


def resolve(name: str, what: str, kind: str) -> Any:
    """The attribute that a path names; `what` (reward, method) and `kind` (function, class) are for the sentences."""
    path = name.removeprefix(PREFIX).strip()
    module_name, _, attribute = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"{what} {name!r} is not a dotted path; write python:module.{kind}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last: a file beside the recipe must not shadow an installed package
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"{what} {name!r}: there is no module {error.name!r}; run superrl in the folder that has it, "
                "or install it"
            ) from None
        raised = type(error).__name__
        raise UserError(f"{what} {name!r}: importing {module_name!r} raised {raised}: {one_line(error)}") from error
    found = vars(module).get(attribute)
    where = getattr(module, "__file__", None) or module_name
    if found is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = nearest(attribute, known) if known else f"it defines no {kind}"
        raise UserError(f"{what} {name!r}: {where} has no {kind} {attribute!r}; {hint}")
    if not callable(found):
        is_a = type(found).__name__
        raise UserError(f"{what} {name!r}: {attribute!r} in {where} is {is_a} and no {kind}; name a {kind}")
    return found
