"""Every method by name, and how a recipe's `method:` mapping becomes one. A plain dict is registry enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from superrl.config import explain
from superrl.errors import UserError, nearest
from superrl.methods.grpo import Grpo
from superrl.methods.hooks import Limits, Method
from superrl.methods.sft import Sft
from superrl.methods.superrl import SuperRL
from superrl.methods.yoked import Yoked

METHODS: dict[str, type[Method]] = {"sft": Sft, "grpo": Grpo, "superrl": SuperRL, "yoked": Yoked}


def build(config: Mapping[str, Any], limits: Limits, where: str = "method") -> Method:
    """The method a recipe names, with its options checked."""
    name = config.get("name")
    if name not in METHODS:
        raise UserError(f"{where}: no method {name!r}; {nearest(str(name), METHODS)}")
    method = METHODS[name]
    values = {key: value for key, value in config.items() if key != "name"}
    try:
        options = method.Options.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, method.Options, where)) from None
    return method(options, limits)
