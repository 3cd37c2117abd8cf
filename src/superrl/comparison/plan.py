"""What is to be compared: recipes, settings, seeds and the tuning every arm gets, as one frozen, resolved record.

Written from the command line's arguments, or read from a YAML file that has a key `recipes`, so that a plan can be
committed before the first run. Leaves out how an arm's recipe is derived (`arms`) and how runs are run (`runner`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from superrl.complaint import explain
from superrl.config import Frozen, NonNegativeInt, read_yaml
from superrl.errors import UserError

Split = Annotated[float, Field(gt=0.0, lt=1.0)]


class TuningConfig(Frozen):
    """The grid that every arm is tuned on, with `seeds` that no result is reported from, by validation accuracy.

    `lr`: learning rates (none: the recipe's own, untuned). `split`: shares of the steps that SFT-then-RL spends on SFT;
    tried at its best rate, so that this baseline gets more trials than the others.
    """

    lr: list[PositiveFloat] = Field(default_factory=list)
    split: Annotated[list[Split], Field(min_length=1)] = Field(default_factory=lambda: [0.4])
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = Field(default_factory=lambda: [1000])

    @model_validator(mode="after")
    def _trials_differ(self) -> TuningConfig:
        for name, values in (("lr", self.lr), ("split", self.split), ("seeds", self.seeds)):
            if len({f"{value:g}" for value in values}) < len(values):  # as their folders are called
                raise ValueError(f"{name} must differ in their first six digits, got {values}")
        return self


class MeasuresConfig(Frozen):
    """What is looked at in every finished run's model besides its accuracies, on at most so many `problems` of a set.

    `imitation`: how like the demonstrations its successes are, and how well it knows them. `pass_at`: completions a
    problem of the primary test set for pass@k curves (0: none).
    """

    imitation: bool = True
    pass_at: NonNegativeInt = 0
    problems: PositiveInt = 64


class SettingConfig(Frozen):
    """One setting: `overrides` of the recipes, the test sets to report by column, and optionally another setting whose
    tuned values are taken over (`tuned_in`)."""

    overrides: list[str] = Field(default_factory=list)
    columns: dict[str, str] = Field(default_factory=dict)
    tuned_in: str | None = None


class ComparisonConfig(Frozen):
    """A comparison. The first recipe is the treatment; the baselines it is compared with are made from it, all but
    those in `without`. Further arms are further recipes, and `methods`: the treatment's last stage, alone, under
    another method, by the arm's name."""

    name: str = "comparison"
    recipes: Annotated[list[str], Field(min_length=1)]
    overrides: list[str] = Field(default_factory=list)
    settings: Annotated[dict[str, SettingConfig], Field(min_length=1)] = Field(
        default_factory=lambda: {"default": SettingConfig()}
    )
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    without: list[str] = Field(default_factory=list)
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = Field(default_factory=lambda: [0, 1, 2])
    tuning: TuningConfig = TuningConfig()
    primary: str = "in distribution"
    measures: MeasuresConfig = MeasuresConfig()
    seconds: Literal["wall", "cpu"] = "wall"
    jobs: PositiveInt = 1

    @model_validator(mode="after")
    def _seeds_are_fresh(self) -> ComparisonConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        if self.tuning.lr and (used := set(self.seeds) & set(self.tuning.seeds)):
            raise ValueError(f"seed {min(used)} is used for tuning, so no result may come from it")
        return self

    @model_validator(mode="after")
    def _settings_know_each_other(self) -> ComparisonConfig:
        for name, setting in self.settings.items():
            other = setting.tuned_in
            if other is not None and (other not in self.settings or self.settings[other].tuned_in is not None):
                raise ValueError(f"settings.{name}.tuned_in: {other!r} is no setting that is tuned itself")
        for key, names in (("settings", self.settings), ("methods", self.methods)):
            for name in names:
                if not set(name) <= SLUG or not name.strip("."):
                    raise ValueError(f"{key}: {name!r} names a folder: use lower-case letters, digits and - . only")
        return self

    def tuned_in(self, setting: str) -> str:
        """The setting whose tuned values a setting uses."""
        return self.settings[setting].tuned_in or setting


SLUG = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
RESOLVED = "comparison.yaml"
"""The plan in a comparison's folder."""
DERIVED = ("arms", "baseline", "treatment")
"""What stands in it besides the plan, for those who read it."""
JUDGED_BY = 3
"""Tuning judges a trial by the mean of its last so many validations: one alone is noise."""
SPLITS = [0.2, 0.4, 0.7]
"""The splits that `--tune` tries."""


def is_plan(path: Path) -> bool:
    """Whether a file is a comparison's plan and no recipe."""
    return path.suffix in (".yaml", ".yml") and path.is_file() and "recipes" in read_yaml(path)


def read_plan(path: Path, **changes: Any) -> ComparisonConfig:
    """A plan from its file, with the changes given on the command line; a comparison's own `comparison.yaml` is one."""
    values = read_yaml(path)
    if path.name == RESOLVED:
        values = {key: value for key, value in values.items() if key not in DERIVED}
    return make({**values, **changes}, str(path))


def planned(
    recipes: Sequence[str],
    overrides: Sequence[str],
    seeds: int = 3,
    tune: Sequence[float] = (),
    without: Sequence[str] = (),
    jobs: int = 1,
) -> ComparisonConfig:
    """The plan that a command line stands for: one setting, seeds from 0 on, tuned on seed 1000 or not at all."""
    tuning = {"lr": list(tune), "split": SPLITS} if tune else {}
    values = {"recipes": list(recipes), "overrides": list(overrides), "seeds": list(range(seeds)), "tuning": tuning}
    return make({**values, "without": list(without), "jobs": jobs})


def make(values: dict[str, Any], where: str = "compare") -> ComparisonConfig:
    """Validate plain values into a plan; the first thing wrong becomes one sentence."""
    try:
        return ComparisonConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, ComparisonConfig, where)) from None


def resolved(plan: ComparisonConfig, arms: Sequence[str], baseline: str, treatment: str) -> str:
    """`comparison.yaml`: the plan, and what follows from it."""
    derived = dict(zip(DERIVED, (list(arms), baseline, treatment), strict=True))
    return yaml.safe_dump({**plan.model_dump(mode="json"), **derived}, sort_keys=False, allow_unicode=True)
