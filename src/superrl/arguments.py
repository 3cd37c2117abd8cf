"""What the command line's texts stand for: a reward, a template, a truncation, a plan; whether a file can be written.

Whatever is wrong with one is a UserError that names the option. Leaves out the commands (`cli`). Imports what it needs
when it is asked, so that `superrl --help` starts no torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superrl.errors import UserError

if TYPE_CHECKING:
    from superrl.comparison.plan import ComparisonConfig
    from superrl.config import PromptConfig
    from superrl.truncation import Truncation


def plan_of(
    arguments: Sequence[str], seeds: int | None, tune: str | None, without: str | None, jobs: int | None
) -> ComparisonConfig:
    """A plan from its file, which then says all but `jobs`, or from recipes and options."""
    from superrl.comparison.plan import is_plan, planned, read_plan

    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).is_file()]
    recipes = [argument for argument in arguments if argument not in overrides]
    if not recipes:
        raise UserError("name a recipe to compare, such as `superrl compare default`, or a plan")
    if plans := [recipe for recipe in recipes if is_plan(Path(recipe))]:
        if len(arguments) > 1 or seeds is not None or tune is not None or without is not None:
            raise UserError(f"{plans[0]} is a plan, which says all but --jobs: put recipes, seeds and settings there")
        return read_plan(Path(plans[0]), **({} if jobs is None else {"jobs": jobs}))
    try:
        rates = [float(rate) for rate in tune.split(",")] if tune is not None else []
    except ValueError:
        raise UserError(f"--tune {tune!r} must be learning rates, such as 1e-5,3e-5,1e-4") from None
    leave_out = [arm.strip() for arm in without.split(",")] if without is not None else []
    return planned(recipes, overrides, seeds or 3, rates, leave_out, jobs or 1)


def yaml_of(option: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{option} {text!r} is not valid YAML") from None


def reward_of(text: str | None) -> dict[str, Any] | list[dict[str, Any]] | None:
    """`math` or `{name: math}` or a list of such, as a recipe would hold it."""
    if text is None:
        return None
    value = yaml_of("--reward", text)
    values = value if isinstance(value, list) else [value]
    items = [{"name": item} if isinstance(item, str) else item for item in values]
    if not items or not all(isinstance(item, dict) and "name" in item for item in items):
        raise UserError(f"--reward {text!r} must be a reward's name, or YAML such as '{{name: math}}'")
    return items if isinstance(value, list) else items[0]


def prompt_of(text: str | None) -> PromptConfig | None:
    """A template such as `Question: {prompt}`, or the whole mapping in YAML."""
    if text is None:
        return None
    from pydantic import ValidationError

    from superrl.complaint import explain
    from superrl.config import PromptConfig

    is_mapping = text.lstrip().startswith(("{system:", "{template:", "{chat:"))
    try:
        return PromptConfig.model_validate(yaml_of("--prompt", text) if is_mapping else {"template": text})
    except ValidationError as error:
        raise UserError(explain(error, PromptConfig, "--prompt")) from None


def truncation_of(text: str | None) -> Truncation | None:
    """`{top_p: 0.95}`, as a recipe's evaluation would hold it."""
    if text is None:
        return None
    from pydantic import ValidationError

    from superrl.complaint import explain
    from superrl.truncation import Truncation

    value = yaml_of("--truncation", text)
    if not isinstance(value, dict):
        raise UserError(f"--truncation {text!r} must be a mapping such as '{{top_p: 0.95}}'")
    try:
        return Truncation.model_validate(value)
    except ValidationError as error:
        raise UserError(explain(error, Truncation, "--truncation")) from None


def check_writable(path: Path) -> None:
    """Before minutes of work, not after."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: --out must be a file in a folder that exists and may be written to")
