r"""Three public datasets in the shape their files have, the expert's solution in the answer format of the rollouts.

    gsm8k     {question, answer: "... <<48/2=24>>24 ...\n#### 72"}      ends with: The answer is \boxed{72}.
    math      {problem, solution: "... \boxed{0}", answer?}              the solution itself
    hotpotqa  {question, answer, context, supporting_facts}              the supporting sentences, then: Answer: Hustle

A preset says where the dataset lives on the hub; `PRESET:PATH` reads a local file of the same shape instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from superrl.data.files import Row, kind
from superrl.data.rows import answer_text, checked_text, row_id
from superrl.errors import UserError
from superrl.records import Demonstration, Problem, Step
from superrl.rewards.extract import last_boxed

Convert = Callable[[Row, Mapping[str, str]], Problem]


@dataclass(frozen=True, slots=True)
class Preset:
    """A known dataset: its home on the hub, which of its splits is which of ours, what it brings, how rows are read."""

    hub: str
    config: str | None
    splits: Mapping[str, str]
    defaults: Mapping[str, Any]
    convert: Convert
    options: tuple[str, ...] = ()


def gsm8k(row: Row, options: Mapping[str, str]) -> Problem:
    """The calculator's annotations go; the lines of the rationale are the steps."""
    rationale, mark, gold = text_of(row, "answer").rpartition("####")
    if not mark or not gold.strip():
        raise UserError(f"{row.where}: `answer` does not end with `#### number`: is this a GSM8K file?")
    answer = gold.strip().replace(",", "")
    lines = [line.strip() for line in re.sub(r"<<[^<>]*>>", "", rationale).splitlines() if line.strip()]
    steps = (*lines, boxed_sentence(answer))
    demonstration = Demonstration("\n".join(steps), tuple(map(Step, steps)), "gsm8k")
    return problem(row, text_of(row, "question"), answer, demonstration, {"question", "answer"})


def math(row: Row, options: Mapping[str, str]) -> Problem:
    """The gold answer is the column `answer`, or else what the solution boxes last."""
    question = text_of(row, "problem" if row.values.get("problem") is not None else "question")
    solution = text_of(row, "solution").strip() if row.values.get("solution") is not None else ""
    boxed = last_boxed(solution)
    answer = answer_text(row) or boxed
    if answer is None:
        raise UserError(f"{row.where} has neither an `answer` nor a solution with \\boxed{{...}}: add one of them")
    text = solution if boxed is not None or not solution else f"{solution}\n{boxed_sentence(answer)}"
    demonstration = Demonstration(text, (), "math") if text else None
    return problem(row, question, answer, demonstration, {"problem", "question", "solution", "answer"})


def hotpotqa(row: Row, options: Mapping[str, str]) -> Problem:
    """`paragraphs=n` keeps the first n paragraphs, the ones with supporting sentences always among them."""
    question, answer = text_of(row, "question"), text_of(row, "answer")
    pages = paragraphs(row)
    facts = supporting(row, dict(pages))
    needed = {title for title, _ in facts}
    most = whole_number(options.get("paragraphs", str(len(pages))), "paragraphs")
    room = most - len(needed)
    kept = []
    for title, sentences in pages:
        if title in needed or room > 0:
            kept.append(f"{title}: {' '.join(sentences)}")
            room -= title not in needed
    prompt = "\n\n".join([*kept, f"Question: {question}"])
    steps = (*(f"{title}: {sentence}" for title, sentence in facts), f"Answer: {answer}")
    demonstration = Demonstration("\n".join(steps), tuple(map(Step, steps)), "hotpotqa") if facts else None
    return problem(row, prompt, answer, demonstration, {"question", "answer", "context", "supporting_facts"})


BOXED = {
    "prompt": {"template": "{prompt}\n\nReason step by step and put the final answer in \\boxed{}.\n"},
    "reward": {"name": "math"},
}
PRESETS: dict[str, Preset] = {
    "gsm8k": Preset(
        "openai/gsm8k", "main", {"train": "train", "test": "test"}, {**BOXED, "max_new_tokens": 320}, gsm8k
    ),
    "math": Preset(
        "DigitalLearningGmbH/MATH-lighteval",
        None,
        {"train": "train", "test": "test"},
        {**BOXED, "max_new_tokens": 1024},
        math,
    ),
    "hotpotqa": Preset(
        "hotpotqa/hotpot_qa",
        "distractor",
        {"train": "train", "validation": "validation"},
        {
            "prompt": {
                "template": "{prompt}\n\nQuote the sentences that answer the question, one a line. "
                "Then end with a line `Answer:` and the answer in a few words.\n"
            },
            "reward": {"name": "qa"},
            "max_new_tokens": 320,
        },
        hotpotqa,
        ("paragraphs",),
    ),
}


def boxed_sentence(answer: str) -> str:
    """How a demonstration ends where the prompt asks for a boxed answer."""
    return f"The answer is \\boxed{{{answer}}}."


def paragraphs(row: Row) -> list[tuple[str, list[str]]]:
    """[(title, sentences)] from {title: [...], sentences: [[...]]} (the hub's) or [[title, [sentence, ...]], ...]."""
    pairs = _pairs(row, "context", "sentences")
    if not all(isinstance(sentences, list | tuple) for _, sentences in pairs):
        raise UserError(f"{row.where}: a paragraph of `context` is not a list of sentences: is this a HotpotQA file?")
    return [(str(title), [str(sentence).strip() for sentence in sentences]) for title, sentences in pairs]


def supporting(row: Row, pages: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """[(title, sentence)] of the supporting facts; the dataset's own slips (no such sentence) are passed over."""
    facts = []
    for title, index in _pairs(row, "supporting_facts", "sent_id"):
        sentences = pages.get(str(title), ())
        if isinstance(index, int) and 0 <= index < len(sentences):
            facts.append((str(title), sentences[index]))
    return list(dict.fromkeys(facts))


def _pairs(row: Row, column: str, second: str) -> list[tuple[Any, Any]]:
    value = row.values.get(column)
    if isinstance(value, Mapping) and {"title", second} <= set(value):
        return list(zip(value["title"], value[second], strict=True))
    if isinstance(value, list | tuple) and all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
        return [(item[0], item[1]) for item in value]
    raise UserError(
        f"{row.where}: `{column}` is neither {{title: [...], {second}: [...]}} nor a list of pairs: "
        "is this a HotpotQA file?"
    )


def text_of(row: Row, column: str) -> str:
    """A column that must hold text, or a sentence that names the columns there are."""
    value = row.values.get(column)
    if value is None:
        columns = ", ".join(sorted(row.values)) or "none at all"
        raise UserError(f"{row.where} has no column `{column}`, only {columns}: is the preset the right one?")
    if not isinstance(value, str) or not value.strip():
        found = kind(value) if not isinstance(value, str) else "blank"
        raise UserError(f"{row.where}: `{column}` is {found}, not text: repair the row")
    return checked_text(value, row, column)


def problem(row: Row, prompt: str, answer: str, demonstration: Demonstration | None, used: set[str]) -> Problem:
    """A problem of one user message; the columns not used go to `meta`."""
    meta = {key: value for key, value in row.values.items() if key not in used | {"id"}}
    demonstrations = () if demonstration is None else (demonstration,)
    return Problem(row_id(row), ({"role": "user", "content": prompt},), answer, demonstrations, meta)


def whole_number(text: str, name: str) -> int:
    """A positive whole number from a source's query."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{name}={text} is not a positive whole number")
    return int(text)
