"""Problems as token ids: the model's context, the expert's demonstration in the same template, and back to text.

A sequence is the concatenation of token ids that were made apart (context, completion, end): joined text is
never tokenised again, so a demonstration's tokens are the ones the sampler would have had to draw. Rendering is plain
string replacement; braces in the data mean nothing.

Leaves out: padding, truncation (a sequence is never cut) and images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from superrl.config import PromptConfig
from superrl.errors import UserError
from superrl.records import Demonstration, Message, Problem, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Endings:
    """The token ids that end a completion, and the one that ends a demonstration (it is among them)."""

    ids: tuple[int, ...]
    final: int


class Renderer:
    """Renders problems for one tokenizer under one prompt configuration. `eos_id` ends every demonstration."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig, eos_id: int) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.eos_id = eos_id
        self.chat = uses_chat(tokenizer, prompt)
        self._lead = _leading_ids(tokenizer)

    def messages(self, problem: Problem, instead: Sequence[Message] | None = None) -> tuple[Message, ...]:
        """The problem's messages, or those `instead` (with a hint, say), with the configured system message and, around
        the last user message, the template."""
        messages = list(problem.messages if instead is None else instead)
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        if last is not None:
            content = self.prompt.template.replace("{prompt}", messages[last]["content"])
            messages[last] = {**messages[last], "content": content}
        if self.prompt.system is not None:
            own = messages[1:] if messages[0]["role"] == "system" else messages
            messages = [{"role": "system", "content": self.prompt.system}, *own]
        return tuple(messages)

    def text(self, problem: Problem, *, messages: Sequence[Message] | None = None) -> str:
        """What the model reads before its completion, as text; `messages` take the place of the problem's own."""
        shown = self.messages(problem, messages)
        if not self.chat:
            return "\n\n".join(message["content"] for message in shown)
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in shown], tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in shown)
            raise UserError(
                f"the model's chat template refuses problem {problem.id!r} with the roles {roles} ({error}): "
                "change `prompt.system` or the messages, or set `prompt.chat: never`"
            ) from None
        assert isinstance(text, str)
        return text

    def context(self, problem: Problem, *, messages: Sequence[Message] | None = None) -> Tokens:
        """The token ids a completion follows: the rendered prompt, and what opens the assistant's turn."""
        (tokens,) = self._contexts([problem], [self.text(problem, messages=messages)])
        return tokens

    def contexts(self, problems: Sequence[Problem]) -> list[Tokens]:
        """`context` of many problems, tokenised in one call."""
        return self._contexts(problems, [self.text(problem) for problem in problems])

    def demonstration(self, problem: Problem, demonstration: Demonstration) -> Trajectory:
        """The expert's solution after the problem's context, ended by EOS, as one trainable sequence."""
        return self.expert(self.context(problem), demonstration.text, self.encode([demonstration.text])[0])

    def expert(self, context: Tokens, text: str, completion: Tokens, *, stopped: bool = False) -> Trajectory:
        """A demonstration from ids already made. Text that brings its own end-of-sequence token gets no second one, and
        what a stop string has `stopped` gets none, as a rollout would not."""
        ended = completion if stopped or completion[-1:] == (self.eos_id,) else (*completion, self.eos_id)
        tokens = context + ended
        return Trajectory(
            tokens=tokens,
            loss_mask=(False,) * len(context) + (True,) * len(ended),
            logp_sampler=(0.0,) * len(tokens),
            text=text,
            origin="expert",
            stop="stop" if stopped else "eos",
        )

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The ids of every text alone, without the special tokens a tokenizer puts around a document."""
        return _encode(self.tokenizer, texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion as a reward reads it: without special tokens."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _contexts(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Tokens]:
        lead = () if self.chat else self._lead  # a chat template writes its own BOS
        openings = self.encode([problem.opening for problem in problems])
        contexts = [lead + ids + opening for ids, opening in zip(self.encode(texts), openings, strict=True)]
        for problem, tokens in zip(problems, contexts, strict=True):
            if not tokens:
                raise UserError(f"problem {problem.id!r} renders to no token: give it a prompt")
        return contexts


def uses_chat(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig) -> bool:
    """Whether contexts go through the tokenizer's chat template."""
    if prompt.chat == "always" and not tokenizer.chat_template:
        raise UserError("`prompt.chat: always` needs a tokenizer with a chat template: use `auto`, or a chat model")
    return prompt.chat != "never" and bool(tokenizer.chat_template)


def eos_ids(
    tokenizer: PreTrainedTokenizerBase, declared: Iterable[int | Sequence[int] | None], prompt: PromptConfig
) -> Endings:
    """What ends a completion: the ids the model's configs declare, the tokenizer's EOS and, under a chat template, the
    token that closes an assistant's turn. The last of these that exists also ends a demonstration."""
    ids: list[int] = []
    for item in declared:
        ids += [] if item is None else [item] if isinstance(item, int) else list(item)
    eos = tokenizer.eos_token_id
    turn = turn_end(tokenizer, {*ids, *([] if eos is None else [eos])}) if uses_chat(tokenizer, prompt) else None
    final = next((token for token in (turn, eos, *ids) if token is not None), None)
    if final is None:
        raise UserError("neither the model's configs nor its tokenizer name an end-of-sequence token: set `eos_token`")
    known = dict.fromkeys([final, *ids, *(token for token in (eos, turn) if token is not None)])
    return Endings(tuple(known), final)


def turn_end(tokenizer: PreTrainedTokenizerBase, ends: set[int]) -> int | None:
    """The special token a chat template writes after an assistant's message, if it writes one."""
    marker = "7291"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": marker}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except TemplateError:
        return None
    assert isinstance(text, str)
    (after,) = _encode(tokenizer, [text.rpartition(marker)[2]])
    special = {token for token, piece in tokenizer.added_tokens_decoder.items() if piece.special}
    special = (special - {tokenizer.unk_token_id, tokenizer.bos_token_id}) | ends
    return next((token for token in after if token in special), None)


CHUNK = 1024
"""Texts tokenised in one call: what the tokenizer holds of them at a time."""

_SHARED: dict[int, int] = {}
"""One object for every token id: a sequence then takes 8 bytes a token and not 36."""


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tokens]:
    found: list[Tokens] = []
    for start in range(0, len(texts), CHUNK):
        part = list(texts[start : start + CHUNK])
        encoded = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False)
        found += [tuple(map(_SHARED.setdefault, ids, ids)) for ids in encoded["input_ids"]]
    return found


def _leading_ids(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """What a tokenizer puts before a plain document: BOS, or nothing."""
    probe = "a"
    (bare,) = _encode(tokenizer, [probe])
    whole = list(tokenizer(probe)["input_ids"])
    return next((tuple(whole[:i]) for i in range(len(whole)) if tuple(whole[i : i + len(bare)]) == bare), ())
