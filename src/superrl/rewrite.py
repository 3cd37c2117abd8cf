"""`superrl rewrite`: a language model puts written solutions into titled steps, `k. **Title** action`.

SRL needs solutions cut into steps, and most are not written so. A model behind an OpenAI-compatible endpoint is asked
to divide each, not to solve anew; the reply is kept only if it parses as titled steps and its final answer is still the
row's (by the reward that the data bring, else `math`), or, where the row has none, the one that the original ends with.
Replies are kept on disk: a second run asks only for what is missing.

Solutions that say a wrong answer themselves are dropped unasked. Leaves out asking again for a reply that was no good.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from superrl import data, rewards
from superrl.data.files import read_rows
from superrl.data.rows import EXPERT_COLUMNS, problems_of
from superrl.data.written import row_of, write_rows
from superrl.endpoint import Answers, Chat, Client, Endpoint, Refused
from superrl.errors import UserError, nearest, one_line
from superrl.home import cache_folder
from superrl.records import Demonstration, Message, Problem, Score
from superrl.rewards.base import digest
from superrl.rewards.cache import CachedScores
from superrl.rewards.extract import NUMBER, find_answer
from superrl.steps.parse import Solution, parse, render

FORMAT = "titled"
MARKER = "SOLUTION:"
EXAMPLES = 3
SHOWN = 300
"""Characters of a dropped reply that the report shows."""

INSTRUCTIONS = f"""\
You divide finished solutions into steps. You are given a question and a worked solution; write the same solution \
again as a numbered list of logical steps, and nothing else:

{MARKER}
1. **Title of the first step** what is done in it
2. **Title of the second step** what is done in it

- A title is a short phrase in the imperative that says what to do next. It never says what comes out.
- The text after the title does it: the equations, substitutions and conclusions of that step, brief but complete.
- Follow the solution you are given: the same method, the same numbers, the same order. Do not solve the question \
anew, correct nothing, and leave out false starts and repetitions.
- Write three to ten steps. Every step must follow from the question and the steps before it.
- The last step ends with the final answer in \\boxed{{}}, written exactly as the given solution has it.
- Number the steps 1, 2, 3, ... without gaps, each beginning on a line of its own. Begin with the line {MARKER}"""

SHOTS = (
    (
        "A bakery sells boxes of 12 rolls. On Monday it baked 150 rolls and 18 of them were burnt. How many full boxes "
        "could it sell?",
        "The burnt ones can't be sold, so 150 - 18 = 132 rolls are left. A box takes 12, and 132/12 = 11 with nothing "
        "over. They can sell 11 boxes.",
        f"{MARKER}\n"
        "1. **Take away the burnt rolls** $150 - 18 = 132$ rolls can be sold.\n"
        "2. **Divide what is left into boxes** A box holds 12 rolls, and $132 / 12 = 11$ without remainder.\n"
        "3. **State the number of boxes** The bakery could sell $\\boxed{11}$ full boxes.",
    ),
    (
        "Find all real x with sqrt(2x + 3) = x.",
        "Squaring gives 2x + 3 = x^2. (We need x >= 0 for the right-hand side to be a root.) Hmm, so x^2 - 2x - 3 = 0, "
        "that's (x - 3)(x + 1) = 0, x = 3 or x = -1. But -1 is negative so it drops out. For x = 3: sqrt(9) = 3, fine. "
        "Thus x = 3.",
        f"{MARKER}\n"
        "1. **Note which x are possible** A square root is never negative, so $x \\ge 0$.\n"
        "2. **Square both sides** $2x + 3 = x^2$, that is $x^2 - 2x - 3 = 0$.\n"
        "3. **Factor the quadratic** $(x - 3)(x + 1) = 0$, so $x = 3$ or $x = -1$.\n"
        "4. **Discard what does not fit** $x = -1$ contradicts $x \\ge 0$, while $\\sqrt{2 \\cdot 3 + 3} = 3$ fits.\n"
        "5. **State the solution** $x = \\boxed{3}$",
    ),
)
"""Question, solution, and how it is divided."""

MARKED = re.compile(rf"^[ \t#*]*{MARKER}[ \t*]*$", re.MULTILINE | re.IGNORECASE)
FENCE = re.compile(r"\A```[a-z]*\n(.*?)\n?```\Z", re.DOTALL)


Heard = Callable[[int, int], None]


class Columns(NamedTuple):
    """Which columns of a file hold the question, the solution and the answer; None: the file has rows of our own."""

    question: str | None = None
    solution: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A solution on its way: its problem, its demonstration, and the problem with the answer that its end is compared
    with: the row's `own`, or the one that the solution names."""

    problem: Problem
    demonstration: Demonstration
    gold: Problem
    own: bool


@dataclass(slots=True)
class Report:
    """What became of the solutions; `dropped` counts by reason, `examples` are the first few of each with the reply."""

    source: str
    model: str
    solutions: int = 0
    kept: int = 0
    problems: int = 0
    steps: int = 0
    asked: int = 0
    from_disk: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def drop(self, reason: str, problem: Problem, said: str = "") -> None:
        """Count a solution that is left out, and what was said instead."""
        self.dropped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append({"id": problem.id, "said": said[:SHOWN]})

    def text(self) -> str:
        """The summary that a person reads."""
        lines = [
            f"{self.kept:,} of {self.solutions:,} solutions rewritten, of {self.problems:,} problems, "
            f"{self.steps / max(self.kept, 1):.1f} steps each",
            f"{self.asked:,} replies from {self.model}, {self.from_disk:,} from disk; "
            f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens",
        ]
        for reason, count in self.dropped.most_common():
            shown = self.examples[reason][0]
            said = f": {one_line(shown['said'], 90)}" if shown["said"] else ""
            lines.append(
                f"dropped {count:,} {reason} ({WHY.get(reason, 'its steps do not parse')}), {shown['id']}{said}"
            )
        return "\n".join(lines)

    def row(self) -> dict[str, Any]:
        """The same as JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"dropped": dict(self.dropped)}


class Counted:
    """Tells how many replies are there."""

    def __init__(self, tell: Callable[[str, int], None]) -> None:
        self.tell = tell
        self.done = 0

    def heard(self, total: int, k: int) -> None:
        """k more of `total`."""
        self.done += k
        self.tell(f"{self.done:,} replies of", total)


WHY = {
    "no_solution": "the row has none",
    "no_answer": "neither row nor solution says what the answer is",
    "original_wrong": "the solution itself has another answer",
    "refused": "the endpoint refuses the request",
    "cut": "the reply hit the length limit",
    "empty": "nothing was written",
    "empty_step": "a step has a title only",
    "answer_lost": "the final answer changed",
}


def rewrite(
    source: str,
    out: Path,
    endpoint: Endpoint,
    *,
    columns: Columns = Columns(),  # noqa: B008  (immutable)
    reward: rewards.RewardConfig | None = None,
    limit: int | None = None,
    kept: Path | None = None,
    max_tokens: int | None = None,
    heard: Heard = lambda total, k: None,
    note: Callable[[str], None] = lambda text: None,
) -> Report:
    """Rewrite the solutions of the first `limit` rows and write those rows whose solution survived to `out`, in order.

    Where none survived nothing is written. `kept`: the file of replies (default: in the cache folder, one for each
    endpoint and model). `heard(total, k)` hears that k more of so many replies are there.
    """
    loaded = load(source, columns)
    name = f"rewrite-{digest([endpoint.url, endpoint.model])}.jsonl"
    kept = kept or cache_folder() / "answers" / name
    client = Client(endpoint, Answers(kept))
    report = Report(source, endpoint.model)
    with Grading(reward or loaded.defaults.get("reward") or "math") as grading:
        items = sound(loaded.problems[:limit], grading, report)
        note(f"{len(items):,} of {report.solutions:,} solutions to rewrite; replies are kept in {kept}")
        told = partial(heard, len(items))
        replies = client.chat([conversation(item) for item in items], told, temperature=0.0, max_tokens=max_tokens)
        report.asked, report.from_disk = client.asked, client.recalled
        problems = verified(items, replies, grading, report)
    if problems:
        write_rows(out, map(row_of, problems))
    return report


def load(source: str, columns: Columns) -> data.Loaded:
    """Problems with written solutions: what `data.load` reads, or a file whose columns are named."""
    if columns == Columns():
        return data.load(source, "train")
    names = {"prompt": columns.question, "demonstration": columns.solution, "answer": columns.answer}
    named = {own: theirs for own, theirs in names.items() if theirs is not None}
    replaced = {*named.values(), *named}
    replaced |= {"messages"} if columns.question else set()
    replaced |= set(EXPERT_COLUMNS) if columns.solution else set()
    rows = []
    for row in read_rows(source):
        if lacking := [column for column in named.values() if column not in row.values]:
            raise UserError(f"{row.where} has no column {lacking[0]!r}: {nearest(lacking[0], map(str, row.values))}")
        rest = {key: value for key, value in row.values.items() if key not in replaced}
        rows.append(row._replace(values={**rest, **{own: row.values[theirs] for own, theirs in named.items()}}))
    dropped: Counter[str] = Counter()
    problems = problems_of(rows, dropped)
    [(most, times)] = Counter(problem.id for problem in problems).most_common(1)
    if times > 1:
        raise UserError(f"the id {most!r} stands {times} times in {source}: give every row an `id` of its own")
    return data.Loaded(tuple(problems), {}, dropped)


class Grading:
    """What says whether a text ends in the right answer: the data's reward, and `math` for answers that the original
    solutions name."""

    def __init__(self, reward: rewards.RewardConfig) -> None:
        self.own, self.plain = CachedScores(rewards.build(reward)), CachedScores(rewards.build("math"))
        if not self.own.reward.gives_correct:
            raise UserError("the reward never says what is correct: give another by --reward, such as --reward math")

    def __enter__(self) -> Grading:
        return self

    def __exit__(self, *exception: object) -> None:
        self.own.reward.close()
        self.plain.reward.close()

    def items(self, problem: Problem, unreadable: str | None) -> list[Item]:
        """The problem's written solutions; where the row's own answer cannot be graded, with the solution's."""
        solutions = [demo for demo in problem.demonstrations if demo.text.strip()]
        if unreadable is None:
            return [Item(problem, demo, problem, True) for demo in solutions]
        return [Item(problem, demo, replace(problem, answer=final_answer(demo.text)), False) for demo in solutions]

    def scores(self, items: Sequence[Item], texts: Sequence[str]) -> list[Score]:
        """What every text is worth as an answer to its item's question."""
        found: dict[int, Score] = {}
        for reward, own in ((self.own, True), (self.plain, False)):
            mine = [i for i, item in enumerate(items) if item.own is own]
            scores = reward.score([items[i].gold for i in mine], [texts[i] for i in mine]) if mine else []
            found |= dict(zip(mine, scores, strict=True))
        return [found[i] for i in range(len(items))]


def sound(problems: Sequence[Problem], grading: Grading, report: Report) -> list[Item]:
    """The solutions worth asking for: there is an answer to hold the reply to, and the original says no other one. One
    that only hides it in its prose, where `math` does not find it, is asked for: the reply will put it into a box."""
    named = []
    for problem, unreadable in zip(problems, grading.own.unreadable_all(problems), strict=True):
        items = grading.items(problem, unreadable)
        report.solutions += max(1, len(items))
        if not items:
            report.drop("no_solution", problem)
        for item in items:
            if item.gold.answer is None:
                report.drop("no_answer", problem)
            else:
                named.append(item)
    kept = []
    for item, score in zip(named, grading.scores(named, [item.demonstration.text for item in named]), strict=True):
        if score.correct or not score.parts.get("answered", 1.0):
            kept.append(item)
        else:
            report.drop("original_wrong", item.problem)
    return kept


def verified(
    items: Sequence[Item], replies: Sequence[Chat | Refused], grading: Grading, report: Report
) -> list[Problem]:
    """The problems with the rewritten solutions that parse and still end in their answer."""
    parsed: list[tuple[Item, Solution]] = []
    for item, reply in zip(items, replies, strict=True):
        found = read(reply)
        if isinstance(reply, Chat):
            report.prompt_tokens += reply.prompt_tokens
            report.completion_tokens += reply.completion_tokens
        if isinstance(found, str):
            report.drop(found, item.problem, reply.text if isinstance(reply, Chat) else reply.why)
        else:
            parsed.append((item, found))
    scores = grading.scores([item for item, _ in parsed], [render(solution) for _, solution in parsed])
    kept: dict[str, Problem] = {}
    for (item, solution), score in zip(parsed, scores, strict=True):
        if not score.correct:
            report.drop("answer_lost", item.problem, render(solution)[-SHOWN:])
            continue
        report.kept += 1
        report.steps += len(solution.steps)
        before = kept.get(item.problem.id, replace(item.problem, demonstrations=()))
        new = Demonstration(render(solution), solution.steps, f"rewritten by {report.model}")
        kept[item.problem.id] = replace(before, demonstrations=(*before.demonstrations, new))
    report.problems = len(kept)
    return list(kept.values())


def conversation(item: Item) -> list[Message]:
    """What the model is asked: the instructions, two worked examples, then the question and its solution."""
    asked = question(item.problem)
    shots = [(ask(q, solution), divided) for q, solution, divided in SHOTS]
    turns = [({"role": "user", "content": u}, {"role": "assistant", "content": a}) for u, a in shots]
    last = {"role": "user", "content": ask(asked, item.demonstration.text.strip())}
    return [{"role": "system", "content": INSTRUCTIONS}, *(message for turn in turns for message in turn), last]


def ask(question: str, solution: str) -> str:
    """One question and its solution, as the examples have them."""
    return f"QUESTION:\n{question}\n\nGIVEN SOLUTION:\n{solution}"


def question(problem: Problem) -> str:
    """The problem as one text: its message, or all of them by their roles."""
    if len(problem.messages) == 1:
        return problem.prompt.strip()
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in problem.messages)


def read(reply: Chat | Refused) -> Solution | str:
    """A reply as titled steps, without thought before it, marker, fence and what precedes the first step; or why not.

    >>> read(Chat("Sure!\\nSOLUTION:\\n1. **Add** 2+2\\n2. **Say it** 4\\n")).steps[1].text
    '2. **Say it** 4'
    """
    if isinstance(reply, Refused):
        return "refused"
    if reply.finish == "length":
        return "cut"
    text = MARKED.split(reply.answer)[-1].strip()
    if fenced := FENCE.fullmatch(text):
        text = fenced.group(1).strip()
    if not text:
        return "empty"
    found = parse(text, FORMAT)
    if isinstance(found, str):
        return found
    if not all(step.action.strip() for step in found.steps):
        return "empty_step"
    return replace(found, preamble="")


def final_answer(solution: str) -> str | None:
    r"""What a solution ends with: its last `\boxed{}` or `####` line, else its last number; None if it has none.

    >>> final_answer(r"So $x = \boxed{3}$, 1 of 2."), final_answer("12 + 5 = 17 rolls."), final_answer("It is even.")
    ('3', '17', None)
    """
    found = find_answer(solution)
    if found is not None and found.kind == "bare":
        return found.text
    numbers = NUMBER.findall(found.text if found is not None and found.kind == "phrase" else solution)
    return numbers[-1].rstrip(".,") if numbers else None
