"""What the policy reads before it writes one step of an expert's trajectory, and how the expert would have written it.

Two layouts. `continued`: the problem alone, and the solution so far opens the assistant's turn; for an agent the turns
so far are messages. `instructed`: one user message with the problem, what was done so far, and at its end the request
for step k. What all steps of a trajectory share comes first, so that their contexts share as long a prefix as can be.

Leaves out whose action is the target and which steps are targets at all (`instances`), and tokens (`superrl.text`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from superrl.errors import UserError
from superrl.records import Demonstration, Message, Problem, Step
from superrl.steps.think import CLOSE, OPEN, OPENINGS, Think, wrap

TEMPLATE = "{prompt}\n"
"""The prompt template of the layout `instructed`: what the policy writes begins on a line of its own."""
BETWEEN = "\n\n"
"""What stands between steps whose solution does not say."""


@dataclass(frozen=True, slots=True)
class InstanceOptions:
    """How a trajectory of N steps becomes instances.

    `targets`: steps 1 to N - 1 (`paper`), 2 to N (`next`), 1 to N (`all`), or the whole solution as one action.
    `title`: step k's header stands in the context and the body is the target, or the header belongs to the target.
    `think`, `layout`: the template. An agent's context holds its last `pairs` actions with what came of them, of which
    `clip` characters are kept. `expert`: whose action is the answer: the controls take another step's or another
    problem's. `ends`: the white space that closes every step but the last in the layout `continued` without thought;
    it is the stage's stop string.
    """

    targets: Literal["paper", "next", "all", "whole"] = "paper"
    title: Literal["context", "none"] = "context"
    think: Think = "prefilled"
    layout: Literal["instructed", "continued"] = "instructed"
    pairs: int = 2
    clip: int = 1500
    expert: Literal["own", "other-step", "other-problem"] = "own"
    ends: str = ""

    def __post_init__(self) -> None:
        for name, value in (("pairs", self.pairs), ("clip", self.clip)):
            if value < 0:
                raise UserError(f"{name}={value} is negative: give 0 or more")
        if self.targets == "whole" and self.expert == "other-step":
            raise UserError("targets=whole leaves no other step for expert=other-step: take expert=other-problem")

    @property
    def seamless(self) -> bool:
        """Whether the policy goes on in the very text of the solution."""
        return self.layout == "continued" and self.think == "none"


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert trajectory: its `text`, and where in it every step begins (for an agent the text is not read)."""

    name: str
    problem: Problem
    text: str
    steps: tuple[Step, ...]
    starts: tuple[int, ...]
    turns: bool
    source: str = ""
    format: str = ""
    whole: bool = False

    def before(self, i: int) -> str:
        """The solution up to step i, counted from 0."""
        return self.text[: self.starts[i]]

    def gap(self, i: int) -> str:
        """The white space between step i and the next; after the last one none counts."""
        if i + 1 == len(self.steps):
            return ""
        segment = self.text[self.starts[i] : self.starts[i + 1]]
        return segment[len(segment.rstrip()) :]


def expert(name: str, problem: Problem, demonstration: Demonstration) -> Expert:
    """A demonstration with steps, these found in its text; where they do not make up the text, joined anew."""
    steps, opened = demonstration.steps, problem.opening
    turns = any(step.is_turn for step in steps)
    starts = None if turns else places(demonstration.text, steps)
    text = demonstration.text
    if starts is None:
        text = BETWEEN.join(step.text for step in steps)
        starts, place = [], 0
        for step in steps:
            starts.append(place)
            place += len(step.text) + len(BETWEEN)
    form = problem.meta.get("format", "")
    shifted = tuple(len(opened) + start for start in starts)
    form = form if isinstance(form, str) else ""
    return Expert(name, problem, opened + text, steps, shifted, turns, demonstration.source, form)


def as_whole(one: Expert) -> Expert:
    """The trajectory as a single step: all of it."""
    text = BETWEEN.join(step.action.strip() for step in one.steps) if one.turns else one.text
    return Expert(one.name, one.problem, text, (Step(text),), (0,), turns=False, source=one.source, whole=True)


def places(text: str, steps: Sequence[Step]) -> list[int] | None:
    """Where in `text` the steps stand, one after the other with nothing but white space between them and after the
    last (before the first may stand anything); None if they do not.

    >>> places("So: a b", [Step("a"), Step("b")])
    [4, 6]
    """
    first = steps[0].text
    start = text.find(first)
    while start >= 0:
        found = _walk(text, start, steps)
        if found is not None:
            return found
        start = text.find(first, start + 1)
    return None


def _walk(text: str, place: int, steps: Sequence[Step]) -> list[int] | None:
    found = []
    for step in steps:
        while not text.startswith(step.text, place):
            if place >= len(text) or not text[place].isspace():
                return None
            place += 1
        found.append(place)
        place += len(step.text)
    return found if not text[place:].strip() else None


def target(one: Expert, i: int, options: InstanceOptions) -> str:
    """The text that step i's action is compared with: without its header where that stands in the context."""
    step = one.steps[i]
    return (step.action if options.title == "context" else step.text).strip()


def completion(one: Expert, i: int, options: InstanceOptions) -> str:
    """What the expert would have written after the context of step i."""
    step = one.steps[i]
    if not options.seamless or one.turns:
        return wrap(target(one, i, options), options.think, step.thought)
    end = one.starts[i] + len(step.text)
    return one.text[_cut(one, i, options) : end].rstrip() + (options.ends if one.gap(i) == options.ends else "")


def opening(one: Expert, i: int, options: InstanceOptions) -> str:
    """What the assistant's turn already holds when the policy begins to write step i."""
    if options.layout == "instructed" or one.turns:
        return OPENINGS[options.think]
    return one.text[: _cut(one, i, options)] + OPENINGS[options.think]


def _cut(one: Expert, i: int, options: InstanceOptions) -> int:
    """Where in the text the context of step i ends. Spaces before what comes next are left to the policy: a tokenizer
    sees them as part of the next word."""
    header = one.steps[i].lead if options.title == "context" else ""
    place = one.starts[i] + len(header)
    return len(one.text[:place].rstrip(" ")) if options.seamless else place


def messages(one: Expert, i: int, options: InstanceOptions) -> tuple[Message, ...]:
    """The prompt of step i."""
    given = one.problem.messages
    if options.layout == "continued":
        return (*given, *_conversation(one, i, options)) if one.turns else given
    kind = "action" if one.turns else "step"
    parts = [_instruction(kind, one.whole, options.think)]
    parts.append(f"{'Task' if one.turns else 'Problem'}:\n{given[-1]['content'].strip()}")
    if one.turns:
        parts += _pairs(one, i, options)
    elif not one.whole:
        parts.append(f"Solution so far:\n{one.before(i).rstrip()}".rstrip())
    parts.append(_request(one, i, options, kind))
    return (*given[:-1], {"role": "user", "content": BETWEEN.join(parts)})


def _instruction(kind: str, whole: bool, think: Think) -> str:
    about = {
        "step": "The problem below is being solved step by step. Your part is the next step, and nothing after it.",
        "action": "The task below is being worked on, one action at a time. Your part is the next action, and "
        "nothing after it.",
    }
    first = "Solve the problem below." if whole else about[kind]
    name = "solution" if whole else kind
    how = {
        "none": f"Write the {name} itself, without a remark before or after it.",
        "optional": f"You may think first, between {OPEN} and {CLOSE}; then write the {name} itself.",
    }
    thinks = f"Think first, between {OPEN} and {CLOSE}, for as long as it helps; then write the {name} itself."
    return f"{first} {how.get(think, thinks)}"


def _request(one: Expert, i: int, options: InstanceOptions, kind: str) -> str:
    """The last line of the prompt: which step is asked for, and whether with its header."""
    if one.whole:
        return "Write the solution."
    step, asked = one.steps[i], f"Write {kind} {i + 1}"
    if not step.lead and not step.title:
        return f"{asked}."
    if options.title == "none":
        return f"{asked}, with its number{' and title' if step.title else ''}."
    return f"{asked}, without its number." if not step.title else f"{asked}, which has this title: {step.title}"


def _shown(one: Expert, i: int, options: InstanceOptions) -> range:
    """The turns before i that an agent's context holds."""
    return range(max(0, i - options.pairs), i)


def _conversation(one: Expert, i: int, options: InstanceOptions) -> list[Message]:
    found: list[Message] = []
    for j in _shown(one, i, options):
        found.append({"role": "assistant", "content": one.steps[j].action.strip()})
        found.append({"role": "user", "content": clip(one.steps[j].observation.strip(), options.clip)})
    return found


def _pairs(one: Expert, i: int, options: InstanceOptions) -> list[str]:
    shown = _shown(one, i, options)
    parts = [f"Actions 1 to {shown.start} are not shown."] if shown.start else []
    for j in shown:
        parts.append(f"Action {j + 1}:\n{one.steps[j].action.strip()}")
        parts.append(f"What came of action {j + 1}:\n{clip(one.steps[j].observation.strip(), options.clip)}".rstrip())
    return parts


def clip(text: str, most: int) -> str:
    """At most `most` characters of a text, the first and the last half of them, and a line that counts the others.

    >>> clip("abcdefgh", 4)
    'ab\\n[... 4 characters left out ...]\\ngh'
    """
    if len(text) <= most:
        return text
    tail = most // 2
    return f"{text[: most - tail]}\n[... {len(text) - most:,} characters left out ...]\n{text[len(text) - tail :]}"
