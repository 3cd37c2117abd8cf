"""`superrl inspect`: what would be trained on, before a run is started.

One prompt and demonstration exactly as the learner gets them, lengths in tokens, what is dropped and why, and what the
grader says of the experts' solutions. Needs the model's tokenizer, not its weights.

Leaves out recipes: prompt, reward and lengths are the ones the data bring, unless given.
"""

from __future__ import annotations

import itertools
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from superrl import data, models, rewards
from superrl.config import PromptConfig
from superrl.data.prepare import Prepared, prepare, reasons, summary
from superrl.records import Group, Trajectory
from superrl.report import plain_console
from superrl.setup import DEFAULT_MAX_NEW_TOKENS
from superrl.steps.meta import is_step
from superrl.text import Renderer, eos_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WIDTH = 80
LIMIT = 2000
OPEN, CLOSE = "⟦", "⟧"
QUANTILES = (("min", 0.0), ("median", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("max", 1.0))
BARS = " ▁▂▃▄▅▆▇█"
BINS = 16
FAILURES = 3
SHOWN = 1500
"""So many characters of a text are shown, two thirds from its beginning and a third from its end."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is to print: the prepared data, the lengths of all rows (dropped ones too), and unknown tokens."""

    source: str
    model: str
    tokenizer: PreTrainedTokenizerBase
    rows: int
    prepared: Prepared
    prompts: tuple[int, ...]
    demonstrations: tuple[int, ...]
    unknown: float
    graded: bool


def inspect(
    source: str, model: str = "tiny", *, limit: int | None = LIMIT, reward: Mapping[str, Any] | None = None
) -> str:
    """The whole page as text, at most 80 columns wide, with colours if standard output is a terminal."""
    console = plain_console(width=WIDTH, force_terminal=sys.stdout.isatty())
    with console.capture() as capture:
        for part in page(examine(source, model, limit=limit, reward=reward)):
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def examine(source: str, model: str, *, limit: int | None, reward: Mapping[str, Any] | None = None) -> Findings:
    """Load, render, measure and grade the first `limit` rows as a run would."""
    loaded = data.load(source, "train")
    rows = len(loaded.problems)
    loaded = replace(loaded, problems=loaded.problems[:limit])
    tokenizer = models.load_tokenizer(model)
    prompt = PromptConfig.model_validate(loaded.defaults.get("prompt") or {})
    renderer = Renderer(tokenizer, prompt, eos_ids(tokenizer, (), prompt).final)
    wanted = reward or loaded.defaults.get("reward")
    grader = rewards.build(wanted) if wanted else None
    contexts = renderer.contexts(loaded.problems)
    experts = renderer.encode([demo.text for problem in loaded.problems for demo in problem.demonstrations])
    try:
        prepared = prepare(
            loaded,
            renderer,
            grader,
            max_new_tokens=loaded.defaults.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS,
            stop=tuple(loaded.defaults.get("stop") or ()),
            context_length=context_length(model),
            unverified="keep",
        )
    finally:
        if grader is not None:
            grader.close()
    return Findings(
        source=source,
        model=model,
        tokenizer=tokenizer,
        rows=rows,
        prepared=prepared,
        prompts=tuple(map(len, contexts)),
        demonstrations=tuple(len(ids) + 1 for ids in experts),
        unknown=unknown_share(tokenizer, [*contexts, *experts]),
        graded=grader is not None,
    )


def context_length(model: str) -> int:
    """The most tokens a sequence of this model may have, from its configuration alone."""
    from transformers import AutoConfig

    source = models.resolve(model)
    config = AutoConfig.from_pretrained(source.location, **source.arguments)
    return models.context_length(SimpleNamespace(config=config))  # reads nothing but the configuration


def unknown_share(tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]]) -> float:
    """The share of tokens that the tokenizer has no piece for."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:
        return 0.0
    return sum(ids.count(unknown) for ids in sequences) / max(1, sum(map(len, sequences)))


def page(found: Findings) -> list[RenderableType]:
    """The sections, top to bottom."""
    report = found.prepared.report
    head = f"the first {report.rows:,} of {found.rows:,} rows; " if report.rows < found.rows else ""
    parts: list[RenderableType] = [title(found.source)]
    parts.append(Text(f"in tokens of {found.model}: {head}{summary(replace(report, failing=0))}"))
    if found.unknown:
        warning = f"warning: {found.unknown:.1%} of the tokens are unknown to this tokenizer; choose another --model"
        parts.append(Text(warning, "yellow"))
    if told := trajectories(found.prepared.groups):
        parts.append(Text(told))
    shown = next(filter(telling, found.prepared.groups), found.prepared.groups[0])
    parts += [*example(shown, found.tokenizer), title("lengths in tokens"), lengths(found)]
    parts += [title("dropped"), dropped(found), title("what the grader says of the demonstrations"), *grading(found)]
    return parts


def trajectories(groups: Sequence[Group]) -> str:
    """How many steps of how many expert trajectories there are; nothing of ordinary problems."""
    names = [group.problem.meta["trajectory"] for group in groups if is_step(group.problem.meta)]
    if not names:
        return ""
    steps, of = ("step" if len(names) == 1 else "steps"), ("trajectory" if len(set(names)) == 1 else "trajectories")
    return f"{len(names):,} {steps} of {len(set(names)):,} {of}"


def telling(group: Group) -> bool:
    """Whether a problem shows what is trained: it has a demonstration and, if it is a step, steps before it."""
    return bool(group.demonstrations) and group.problem.meta.get("step") != 1


def title(text: str) -> Rule:
    """A section's heading."""
    return Rule(Text(text, "bold"), align="left", style="dim")


def example(group: Group, tokenizer: PreTrainedTokenizerBase) -> list[RenderableType]:
    """One problem as the learner gets it, the trained tokens between brackets."""
    answer = "no gold answer" if group.problem.answer is None else f"gold answer {group.problem.answer!r}"
    stepped = is_step(group.problem.meta)  # its answer is an action, and stands below
    parts: list[RenderableType] = [title(f"problem {clean(group.problem.id)}{'' if stepped else f', {answer}'}")]
    if not group.demonstrations:
        parts.append(Padding(Text(clipped(group.problem.prompt)), (0, 2), expand=False))
        return [*parts, Text("no demonstration: this prompt only ever gets policy gradient", "dim")]
    trajectory = group.demonstrations[0]
    parts.append(Padding(marked(trajectory, tokenizer), (0, 2), expand=False))
    tokens = f"{len(trajectory.tokens) - trajectory.length} tokens of prompt, {trajectory.length} trained"
    parts.append(Text(f"{tokens}: those in {OPEN} {CLOSE}", "dim"))
    return [*parts, *step(group)] if stepped else parts


def step(group: Group) -> list[RenderableType]:
    """Of a step of an expert's trajectory: which one it is, what its answer begins with, the action that rewards
    compare with, and that action as the expert would have written it."""
    problem = group.problem
    meta = problem.meta
    about = "".join(f", {key} {clean(str(meta[key]))!r}" for key in ("title", "tool") if meta.get(key))
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(ratio=1)
    table.add_row(
        "step", Text(f"{meta['step']} of {meta.get('steps', '?')} of {clean(str(meta['trajectory']))}{about}")
    )
    table.add_row("opening", Text(clipped(problem.opening)) if problem.opening else Text("none", "dim"))
    table.add_row("action", Text(clipped(problem.answer or "")))
    table.add_row("demonstration", Text(clipped(problem.demonstrations[0].text), "green"))
    return [Text(), table]


def marked(trajectory: Trajectory, tokenizer: PreTrainedTokenizerBase) -> Text:
    """The sequence decoded from its ids, special tokens included, each trained stretch bracketed and green."""
    text = Text()
    pairs = zip(trajectory.tokens, trajectory.loss_mask, strict=True)
    for trained, run in itertools.groupby(pairs, key=lambda pair: pair[1]):
        piece = clipped(str(tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False)))
        text.append(f"{OPEN}{piece}{CLOSE}" if trained else piece, "green" if trained else "")
    return text


def lengths(found: Findings) -> Table:
    """Quantiles, and a histogram from 0 to the longest."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("")
    for name, _ in QUANTILES:
        table.add_column(name, justify="right")
    table.add_column("0 ... max")
    for name, values in (("prompt", found.prompts), ("demonstration", found.demonstrations)):
        if values:
            table.add_row(name, *(f"{quantile(values, q):,}" for _, q in QUANTILES), histogram(values))
    return table


def dropped(found: Findings) -> RenderableType:
    """Every reason with its count and the first problems it struck."""
    report = found.prepared.report
    if not report.dropped:
        return Text("nothing")
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(ratio=1)
    table.add_column(ratio=1, style="dim")
    for reason, words in reasons(report).items():
        table.add_row(Text(words), Text(clean(", ".join(report.examples.get(reason, ())))))
    return table


def grading(found: Findings) -> list[RenderableType]:
    """How many demonstrations the reward calls correct, and the first that it does not."""
    if not found.graded:
        return [Text("the data bring no reward; in a recipe the stage names one, e.g. reward: {name: math}")]
    pairs = [(group.problem, trajectory) for group in found.prepared.groups for trajectory in group.demonstrations]
    if not pairs:
        return [Text("there is no demonstration to grade")]
    judged = [(problem, t) for problem, t in pairs if t.score is not None and t.score.correct is not None]
    if not judged:
        values = sorted(t.score.value for _, t in pairs if t.score is not None)
        full = sum(value == 1.0 for value in values)
        said = f"values from {values[0]:.3g} to {values[-1]:.3g}, {full:,} of {len(values):,} exactly 1"
        return [Text(f"the reward says no right or wrong; {said}")]
    failing = [(problem, t) for problem, t in judged if t.score is not None and not t.score.correct]
    passing = len(judged) - len(failing)
    parts: list[RenderableType] = [Text(f"{passing:,} of {len(judged):,} pass ({passing / len(judged):.1%})")]
    if failing:
        parts.append(Text("the others are dropped unless data.unverified is `keep`; the first:"))
    for problem, trajectory in failing[:FAILURES]:
        end = clean(" ".join(trajectory.text.split())[-60:])
        parts.append(Padding(Text(f"{clean(problem.id)}  gold {problem.answer!r}\n... {end}"), (0, 2), expand=False))
    return parts


def quantile(values: Sequence[int], q: float) -> int:
    """The value that a share q of the others does not exceed."""
    return sorted(values)[round(q * (len(values) - 1))]


def histogram(values: Sequence[int]) -> str:
    """Bars over equal bins from 0 to the maximum; what is not empty is visible."""
    top = max(values) + 1
    counts = [0] * BINS
    for value in values:
        counts[value * BINS // top] += 1
    return "".join(BARS[-(-count * (len(BARS) - 1) // max(counts))] for count in counts)


def clipped(text: str) -> str:
    """Cleaned, and a long text without its middle."""
    text = clean(text)
    if len(text) <= SHOWN:
        return text
    head, tail = text[: SHOWN * 2 // 3], text[-SHOWN // 3 :]
    return f"{head}\n... {len(text) - len(head) - len(tail):,} characters ...\n{tail}"


def clean(text: str) -> str:
    """Control characters as escapes, so that data cannot steer the terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else repr(c)[1:-1] for c in text)
