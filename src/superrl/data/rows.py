"""From a row to a Problem: our own columns, and the prompt/completion columns that other trainers' files have.

    {"id", "prompt", "answer", "demonstrations": ["text" | {"steps", "text", "source"}]}      ours
        a step is text, or {"action", "title", "thought", "observation", "tool"}; `opening` begins the answer
    {"prompt", "completion"}   {"messages": [..., the assistant's reply]}                     text or message lists

Whatever else a row has goes to `Problem.meta`, where rewards find it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from superrl.data.files import Row, kind
from superrl.errors import UserError
from superrl.records import Demonstration, Message, Problem, Step

EXPERT_COLUMNS = ("demonstrations", "demonstration", "completion")
OWN_COLUMNS = {"id", "prompt", "answer", "messages", "opening", *EXPERT_COLUMNS}
STEP_KEYS = frozenset({"action", "lead", "title", "thought", "observation", "tool"})
LOOKS_LIKE = {
    "hotpotqa": {"context", "supporting_facts"},
    "math": {"problem", "solution"},
    "gsm8k": {"question", "answer"},
}


def problems_of(rows: Sequence[Row], dropped: Counter[str]) -> list[Problem]:
    """Every row as a problem; demonstrations without text are left out and counted in `dropped`."""
    return [_problem(row, dropped) for row in rows]


def row_id(row: Row) -> str:
    """A row's own `id`, or where it stands: folder, file and line, so that it does not change with the machine."""
    own = row.values.get("id")
    return "/".join(PurePath(row.source).parts[-2:]) + f":{row.number}" if own is None else str(own)


def answer_text(row: Row) -> str | None:
    """The gold answer as text: numbers lose a trailing `.0`, null is no answer."""
    answer = row.values.get("answer")
    if answer is None or isinstance(answer, str):
        return answer
    if isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer):
        return str(int(answer)) if answer == int(answer) else str(answer)
    raise UserError(
        f"{row.where}: `answer` is {kind(answer)}, not text or a number: "
        "write it as text; several accepted answers go to a column `answers`, which the reward finds in the meta"
    )


def checked_text(text: str, row: Row, column: str) -> str:
    """`text`, if it can be written as UTF-8: half a surrogate pair would stop the tokenizer much later."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{row.where}: `{column}` holds half a surrogate pair (\\ud800-\\udfff): repair it") from None
    return text


def _problem(row: Row, dropped: Counter[str]) -> Problem:
    values = row.values
    conversation = values.get("messages") if values.get("prompt") is None else None
    prompt = values.get("prompt")
    expert = _expert_items(row)
    if conversation is not None:
        prompt, reply = _split_reply(_messages(conversation, row, "messages"), row)
        expert = [*expert, *reply]
    elif prompt is None:
        raise UserError(_missing_prompt(row))
    meta = {key: value for key, value in values.items() if key not in OWN_COLUMNS}
    if isinstance(prompt, str):
        messages: tuple[Message, ...] = ({"role": "user", "content": checked_text(prompt, row, "prompt")},)
    else:
        messages = _messages(prompt, row, "prompt")
        meta["conversational"] = True
    if not any(message["content"].strip() for message in messages):
        raise UserError(f"{row.where}: `prompt` is empty: write the question, or remove the row")
    if messages[-1]["role"] == "assistant":
        raise UserError(f"{row.where}: `prompt` ends with an assistant's message: move that reply to `demonstrations`")
    demonstrations = [_demonstration(item, row) for item in expert]
    kept = tuple(demonstration for demonstration in demonstrations if demonstration.text.strip())
    dropped["empty"] += len(demonstrations) - len(kept)
    opening = values.get("opening") or ""
    if not isinstance(opening, str):
        raise UserError(f"{row.where}: `opening` is {kind(opening)}, not text: write how the answer begins")
    return Problem(row_id(row), messages, answer_text(row), kept, meta, checked_text(opening, row, "opening"))


def _missing_prompt(row: Row) -> str:
    columns = set(row.values)
    preset = next((name for name, wanted in LOOKS_LIKE.items() if wanted <= columns), None)
    if preset == "gsm8k" and "####" not in str(row.values["answer"]):
        preset = None
    advice = "rename the column that holds the question to `prompt`"
    if preset is not None:
        advice = f"the file looks like {preset.upper()}: give it as {preset}:{row.source}"
    return f"{row.where} has no column `prompt`, only {', '.join(sorted(columns)) or 'none at all'}: {advice}"


def _messages(value: Any, row: Row, column: str) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise UserError(
            f"{row.where}: `{column}` is {kind(value)}, not text or a list of messages: "
            'write "text" or [{"role": "user", "content": "text"}]'
        )
    for item in value:
        if not isinstance(item, Mapping) or not all(isinstance(item.get(key), str) for key in ("role", "content")):
            raise UserError(f"{row.where}: a message of `{column}` lacks text in `role` or `content`: {item!s:.80}")
        checked_text(item["content"], row, column)
    return tuple({"role": item["role"], "content": item["content"]} for item in value)


def _split_reply(messages: tuple[Message, ...], row: Row) -> tuple[list[Message], list[str]]:
    """A whole conversation as its prompt and, if it ends with one, the assistant's last reply."""
    if messages[-1]["role"] != "assistant":
        return list(messages), []
    if len(messages) == 1:
        raise UserError(f"{row.where}: `messages` holds only a reply: put the user's message before it")
    return list(messages[:-1]), [messages[-1]["content"]]


def _expert_items(row: Row) -> list[Any]:
    given = [column for column in EXPERT_COLUMNS if row.values.get(column) is not None]
    if len(given) > 1:
        raise UserError(f"{row.where} has both `{given[0]}` and `{given[1]}`: keep one of them")
    if not given:
        return []
    value = row.values[given[0]]
    if given[0] != "demonstrations":
        return [value]
    if not isinstance(value, list | tuple):
        raise UserError(f"{row.where}: `demonstrations` is {kind(value)}, not a list: write a list of texts")
    return list(value)


def _demonstration(item: Any, row: Row) -> Demonstration:
    if item is None or isinstance(item, str):
        return Demonstration(checked_text(item or "", row, "demonstrations"))
    if isinstance(item, Mapping) and "role" not in item:
        listed, text, source = item.get("steps") or (), item.get("text"), item.get("source") or ""
        steps = [_step(step) for step in listed] if isinstance(listed, list | tuple) else [None]
        known = [step for step in steps if step is not None]
        whole_list = len(known) == len(steps)
        if whole_list and isinstance(text, str | None) and isinstance(source, str) and {"steps", "text"} & set(item):
            whole = "\n\n".join(step.text for step in known) if text is None else text
            checked_text("".join([whole, *(part for step in known for part in asdict(step).values())]), row, "steps")
            return Demonstration(whole, tuple(known), source)
    if isinstance(item, list | tuple) and item:
        messages = _messages(item, row, "completion")
        if len(messages) == 1 and messages[0]["role"] == "assistant":
            return Demonstration(messages[0]["content"])
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"{row.where}: a completion has the messages {roles}: a demonstration is one assistant message, "
            "so put the turns before it in `prompt`"
        )
    raise UserError(
        f"{row.where}: a demonstration is {kind(item)}, neither text nor an object with `text` or `steps` "
        f"(a list of texts): {item!s:.60}"
    )


def _step(value: Any) -> Step | None:
    """A step of a demonstration: text, or an object with `action`; None if it is neither."""
    if isinstance(value, str):
        return Step(value)
    known = isinstance(value, Mapping) and set(value) <= STEP_KEYS and isinstance(value.get("action"), str)
    if not known or not all(isinstance(part, str) for part in value.values()):
        return None
    return Step(**value)
