"""The recipe: frozen pydantic models that refuse what they do not know, and how a YAML file and overrides become one.

Imports no torch and knows no method, reward or task: `method` and `reward` are mappings that the options class of the
method or reward checks before anything runs (`superrl.setup`). What is logged is what is used: the run folder's
`config.yaml` is this object, whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from superrl import plain
from superrl.complaint import explain
from superrl.errors import UserError, nearest
from superrl.truncation import BiasedTruncation, Truncation

Plain = dict[str, Any]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0, strict=True)]


class Frozen(BaseModel):
    """Base of all settings: immutable, unknown keys refused, strings never coerced into numbers' places."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)


class LoraConfig(Frozen):
    """Low-rank adapters through peft (extra `lora`); dropout is 0, so that two forwards of one batch agree."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    targets: str | list[str] = "all-linear"


class ModelConfig(Frozen):
    """Which model, and how it computes. Master weights are float32 whatever `dtype` is."""

    name: str = "tiny"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    lora: LoraConfig | None = None
    activation_checkpointing: bool = False


class DataConfig(Frozen):
    """Where problems come from. `unverified`: what happens to demonstrations that fail the run's own reward."""

    train: str | list[str]
    validation: str | list[str] | None = None
    test: str | list[str] = Field(default_factory=list)
    unverified: Literal["drop", "keep"] = "drop"


class PromptConfig(Frozen):
    """How a problem becomes the model's context; None: what the task or preset brings."""

    system: str | None = None
    template: str = "{prompt}"
    chat: Literal["auto", "always", "never"] = "auto"

    @model_validator(mode="after")
    def _template_has_its_slot(self) -> PromptConfig:
        if "{prompt}" not in self.template:
            raise ValueError("template must contain {prompt}")
        return self


class OptimizerConfig(Frozen):
    """AdamW and its schedule; `warmup_steps` and `schedule` count steps of the stage."""

    lr: PositiveFloat = 1e-6
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0


class RefillConfig(Frozen):
    """Dynamic sampling: draw on until `prompts_per_step` groups pass the `keep` rule, at most `cap` times a step.

    `keep`: `mixed` (some rollouts correct, some not), `learnable` (mixed, or failed with a demonstration to fall back
    on), `deviation` (the rewards' deviation exceeds `epsilon`), `valid-deviation` (that of the rollouts which a format
    gate let pass), `solved`; None: the method's own rule. If the cap is reached first, the step's N is what was found.

    `oversample` multiplies how many prompts a round draws for the groups still missing; with `carry_over` surplus
    groups wait for the next step (their tokens keep the log-probabilities of the policy that drew them).
    """

    keep: Literal["mixed", "learnable", "deviation", "valid-deviation", "solved"] | None = None
    epsilon: NonNegativeFloat = 1e-6
    cap: PositiveInt = 4
    oversample: Annotated[float, Field(ge=1.0)] = 1.0
    carry_over: bool = False


class PivotConfig(Frozen):
    """Draw only from problems whose rewards over `rollouts` vary, with a mean `below` (PivotRL, arXiv:2603.21383):
    profiled when the stage begins and, with `every`, again after each so many of its steps."""

    rollouts: Annotated[int, Field(ge=2)] = 8
    below: float = 0.9
    every: PositiveInt | None = None


def _named(value: Any) -> Any:
    """A reward's name stands for the mapping with that name alone."""
    if isinstance(value, list):
        return [{"name": one} if isinstance(one, str) else one for one in value]
    return {"name": value} if isinstance(value, str) else value


RewardSetting = Annotated[Plain | list[Plain] | None, BeforeValidator(_named)]


class StageConfig(Frozen):
    """One stage: a method on some data for a number of steps. None means: what recipe, task or preset bring.

    `order: trajectory` (for `steps:` data) keeps all steps of a trajectory in one batch, so that their contexts are
    computed once: as many whole trajectories as fit into `prompts_per_step`, at least one; `shuffled` mixes the steps.
    A `validation` of its own judges only this stage: `best` then starts anew. With `staleness: 1` a step's rollouts are
    drawn beside the training of the step before, by the weights that this had begun with. Problems and demonstrations
    of more than `max_context` tokens, completion included, are dropped and counted.
    """

    name: str
    method: Plain
    steps: NonNegativeInt
    reward: RewardSetting = None
    prompt: PromptConfig | None = None
    train: str | list[str] | None = None
    validation: str | list[str] | None = None
    order: Literal["shuffled", "trajectory"] = "shuffled"
    from_: Literal["previous", "best", "last", "initial"] = Field("previous", alias="from")
    prompts_per_step: PositiveInt = 32
    group_size: PositiveInt = 8
    max_new_tokens: PositiveInt | None = None
    stop: list[str] = Field(default_factory=list)
    temperature: PositiveFloat = 1.0
    truncation: BiasedTruncation | None = None
    staleness: Literal[0, 1] = 0
    epochs: PositiveInt = 1
    mini_batches: PositiveInt = 1
    max_tokens_per_pack: PositiveInt = 4096
    max_context: PositiveInt | None = None
    refill: RefillConfig | None = None
    pivots: PivotConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()

    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="after")
    def _mini_batches_hold_groups(self) -> StageConfig:
        if self.mini_batches > self.prompts_per_step:
            raise ValueError(
                f"mini_batches ({self.mini_batches}) must not exceed prompts_per_step ({self.prompts_per_step}): "
                "a mini-batch is a set of whole groups"
            )
        return self


class EvaluationConfig(Frozen):
    """Validation every n steps (0: never), test at start and end; `patience` stops a stage after that many evaluations
    without a better validation accuracy."""

    every: NonNegativeInt = 20
    k: PositiveInt = 1
    temperature: NonNegativeFloat = 0.0
    truncation: Truncation | None = None
    limit: PositiveInt | None = 200
    patience: PositiveInt | None = None
    prompt: PromptConfig | None = None
    reward: RewardSetting = None
    max_new_tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _samples_differ(self) -> EvaluationConfig:
        if self.k > 1 and self.temperature == 0.0:
            raise ValueError(f"k = {self.k} samples at temperature 0 are all the same: set a temperature, e.g. 1.0")
        if self.truncation and self.temperature == 0.0:
            raise ValueError("truncation changes nothing at temperature 0: set a temperature, or leave truncation out")
        return self


class CheckpointConfig(Frozen):
    """`every` n steps (0: only the final one); the newest `keep` stay, and the best."""

    every: NonNegativeInt = 50
    keep: PositiveInt = 2


class BudgetConfig(Frozen):
    """Ends the whole run after the first step by which this much was used, whatever `steps` say; None: no limit.

    `tokens`: drawn by rollouts over all stages (demonstrations, evaluations and profiles of pivots cost none). The same
    recipe ends at the same step, also when it is resumed. `seconds`: wall-clock of the run, evaluations and checkpoints
    included; it ends where the machine has got to, so that such a run does not repeat. Schedules still count towards
    `steps`. Stages of no steps still follow (`from: best` as the last stage keeps the best model); such a run cannot be
    continued before them.
    """

    tokens: PositiveInt | None = None
    seconds: PositiveFloat | None = None

    def spent(self, tokens: int, seconds: float) -> bool:
        """Whether `tokens` drawn in `seconds` use the budget up."""
        over = self.tokens is not None and tokens >= self.tokens
        return over or (self.seconds is not None and seconds >= self.seconds)


class ParallelConfig(Frozen):
    """How several processes (torchrun) share a run. `replicate`: each has the whole learner; `shard`: each has a part
    of its weights and moments (FSDP2). A process that is waited for longer than `timeout` seconds counts as lost."""

    strategy: Literal["replicate", "shard"] = "replicate"
    timeout: PositiveFloat = 1800.0


class SamplerConfig(Frozen):
    """What generates. `vllm`: an engine in this process with `memory` GiB for keys and values, or the server at `url`,
    which reads new weights from a folder made in `share` (None: the system's temporary folder). Where the mean
    |logp_sampler - logp| of a step exceeds `max_gap` nats the run stops; `importance_cap` bounds the weight
    p / p_sampler that mends such a gap a token at a time (None: no such weight). Both are set with vllm alone.
    `dtype`: what it computes in (None: what the model does). `graphs`: the local engine replays its decode steps as
    CUDA graphs.
    """

    engine: Literal["local", "vllm"] = "local"
    dtype: Literal["float32", "bfloat16"] | None = None
    graphs: bool = False
    url: str | None = None
    share: str | None = None
    memory: PositiveFloat = 4.0
    max_gap: PositiveFloat | None = None
    importance_cap: PositiveFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _vllm_is_watched(cls, values: Any) -> Any:
        foreign = isinstance(values, dict) and values.get("engine") == "vllm"
        return {"max_gap": 0.1, "importance_cap": 2.0, **values} if foreign else values

    @model_validator(mode="after")
    def _server_is_vllm(self) -> SamplerConfig:
        if self.url is not None and self.engine != "vllm":
            raise ValueError("url is that of a vLLM server: set engine: vllm, or leave url out")
        if self.graphs and self.engine != "local":
            raise ValueError("graphs are the local engine's: set engine: local, or leave graphs out")
        if self.dtype is not None and self.url is not None:
            raise ValueError("a server computes in the type that it was started with (--dtype): leave dtype or url out")
        if self.share is not None and self.url is None:
            raise ValueError("share is where a server finds new weights: name its url, or leave share out")
        return self


class LogConfig(Frozen):
    """How many groups a step go to rollouts.jsonl (0: none), every how many steps the streams' gradients are compared
    (0: never; such a step costs one more backward pass), and which trackers hear the metrics."""

    rollouts_per_step: NonNegativeInt = 4
    streams_every: NonNegativeInt = 0
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)


class Recipe(Frozen):
    """A whole run. `superrl train run/config.yaml` repeats it."""

    seed: NonNegativeInt = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig
    stages: Annotated[list[StageConfig], Field(min_length=1)]
    budget: BudgetConfig = BudgetConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()
    sampler: SamplerConfig = SamplerConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _stage_names_differ(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must differ, got {names}")
        return self

    @model_validator(mode="after")
    def _best_is_known(self) -> Recipe:
        if self.stages[0].from_ != "previous":
            raise ValueError("stages.0.from: the first stage starts from the model, so leave `from` out there")
        judged = [bool(self.evaluation.every and self.validation_of(i)) for i in range(len(self.stages))]
        wanted = {f"stages.{i}.from: best": judged[i - 1] for i, s in enumerate(self.stages) if s.from_ == "best"}
        wanted |= {"evaluation.patience": all(judged)} if self.evaluation.patience else {}
        if blind := next((wants for wants, known in wanted.items() if not known), None):
            raise ValueError(f"{blind} reads validation: name data.validation, with evaluation.every above 0")
        return self

    @model_validator(mode="after")
    def _vllm_learns_from_the_whole(self) -> Recipe:
        cut = [i for i, stage in enumerate(self.stages) if stage.truncation]
        if cut and self.sampler.engine == "vllm":
            raise ValueError(
                f"stages.{cut[0]}.truncation: vLLM reports probabilities of what it leaves, which nothing can be "
                "learnt by: use sampler.engine: local, or leave truncation out"
            )
        return self

    def validation_of(self, stage: int) -> list[str]:
        """The sources that judge a stage: its own, else those of the run."""
        sources = self.stages[stage].validation or self.data.validation or []
        return [sources] if isinstance(sources, str) else sources

    @property
    def steps(self) -> int:
        """Steps over all stages."""
        return sum(stage.steps for stage in self.stages)

    def dump(self) -> dict[str, Any]:
        """The whole recipe as plain values, as it stands in `config.yaml`."""
        return self.model_dump(mode="json", by_alias=True)

    def text(self) -> str:
        """`dump` as YAML: what `config.yaml` holds."""
        return plain.write(self.dump())


RESUMABLE = ("budget", "evaluation", "checkpoint", "parallel", "log")
"""Top-level keys that may change between a run and its resumption, besides every stage's `steps`."""
SAMPLED_BY = ("engine", "dtype", "importance_cap")
"""What of `sampler` may not."""


def parse(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Validate plain values into a Recipe; the first thing wrong becomes one sentence."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, Recipe, where)) from None


def load(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or a YAML file, and apply `path.to.key=value` overrides in order."""
    values = read_yaml(source)
    for override in overrides:
        plain.put(values, override)
    return parse(values, str(source))


def shipped() -> dict[str, str]:
    """Name -> first comment line of every recipe in the package."""
    folder = resources.files("superrl") / "recipes"
    return {
        entry.name.removesuffix(".yaml"): entry.read_text().partition("\n")[0].removeprefix("#").strip()
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".yaml")
    }


def read_yaml(source: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, or in the shipped recipe of a name; anything else is a UserError."""
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        entry = resources.files("superrl") / "recipes" / f"{source}.yaml"
        if not entry.is_file():
            raise UserError(
                f"no recipe {str(source)!r}: {nearest(str(source), shipped())}; or give a path to a .yaml file"
            )
        text = entry.read_text()
    else:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {path}: {error}") from None
    try:
        values = plain.read(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-01
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{source} must be a mapping with at least `data` and `stages`, got {type(values).__name__}")
    return values
