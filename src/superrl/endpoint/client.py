"""Asks an OpenAI-compatible endpoint: at most so many requests at a time, each retried as often as it makes sense.

429, 5xx, time-outs and broken connections are asked again after exponentially longer pauses, or after the one that
`Retry-After` names. What one request is refused for (400, 413, 422: too long, unreadable) is its own affair; what would
meet every other one too (the key, the address, the model) stops at once, with a sentence.

Leaves out streaming, tools, and whatever only one provider has: `Endpoint.body` adds fields to every request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request

from superrl.endpoint.answers import Answers
from superrl.endpoint.transport import Sent, in_thread, opener, reason, send, wait
from superrl.errors import RunError, UserError, one_line

KEY_ENV = "OPENAI_API_KEY"
LONGEST_PAUSE = 60.0
LONGEST_WAIT = 600.0
"""A `Retry-After` of more seconds than this is no pause but a failure."""

ALL_REFUSED = 8
"""So many refusals before any answer: it is the settings that are refused, not the texts."""

BUSY = frozenset({408, 425, 429})

Listener = Callable[[int], None]
Read = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and whom to ask. `body`: further fields of every request, null takes a field out; `pause`: seconds before
    the first retry, doubled for every further one; `timeout`: seconds for one whole reply."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    key_env: str = KEY_ENV
    concurrency: int = 16
    timeout: float = 300.0
    retries: int = 6
    pause: float = 1.0
    body: Mapping[str, Any] = field(default_factory=dict)

    def request(self, **fields: Any) -> dict[str, Any]:
        """A request's body: the model, these fields, then the endpoint's own."""
        whole = {"model": self.model, **fields, **self.body}
        return {name: value for name, value in whole.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Chat:
    """An assistant's message; `finish` is the server's reason for its end ("stop", "length", ...), tokens as it counts
    them (0: it did not)."""

    text: str
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def answer(self) -> str:
        """The text without the thought before it, for servers that do not take it out; "" if that never ends."""
        text = self.text.rpartition("</think>")[2]
        return "" if "<think>" in text else text.strip()


@dataclass(frozen=True, slots=True)
class Refused:
    """This one request is refused, and would be again; what the server says about it."""

    why: str


def endpoint(url: str, model: str, *, key_env: str = KEY_ENV, **settings: Any) -> Endpoint:
    """An endpoint by its base URL (`http://localhost:8000/v1`; `/v1` is added where there is no path), its key from the
    environment variable `key_env` if that is set. A URL that cannot be one is a UserError."""
    text = url.strip().rstrip("/")
    for ending in ("/chat/completions", "/embeddings"):
        text = text.removesuffix(ending)
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        sound = None
    if not sound or any(letter.isspace() or not letter.isascii() for letter in text):
        raise UserError(f"the endpoint {one_line(url)!r} is no URL such as http://localhost:8000/v1: mend it")
    key = (os.environ.get(key_env) or "").strip() or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {key_env} holds no key: it has letters that no header may have")
    return Endpoint(text if parts.path else f"{text}/v1", model, key, key_env, **settings)


@dataclass(slots=True)
class _Round:
    """One call of `ask`: how many requests may be under way, what was refused before any answer came, and what ended
    it early (`over` wakes those that rest)."""

    room: asyncio.Semaphore
    over: asyncio.Event
    answered: int
    refused: int = 0
    failure: UserError | RunError | None = None

    def end(self, failure: UserError | RunError) -> None:
        """The first failure is everybody's."""
        self.failure = self.failure or failure
        self.over.set()

    async def rest(self, seconds: float) -> None:
        """Wait, or until the round is over."""
        try:
            async with asyncio.timeout(seconds):
                await self.over.wait()
        except TimeoutError:
            return


class Client:
    """An endpoint and what is known of it: whether it was ever reached, when it wants to be asked again."""

    def __init__(self, endpoint: Endpoint, answers: Answers | None = None) -> None:
        self.endpoint = endpoint
        self.answers = answers
        self.asked = self.recalled = 0
        """Requests that the endpoint has answered, and those that were answered from disk."""
        self._reached = False
        self._resume_at = 0.0
        self._opener = opener(endpoint.url)

    def chat(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], heard: Listener | None = None, **fields: Any
    ) -> list[Chat | Refused]:
        """One reply a conversation, in order; equal ones are asked once. `heard(k)`: k more are there."""
        bodies = [self.endpoint.request(messages=[dict(m) for m in one], **fields) for one in conversations]
        found = wait(self.ask("chat/completions", bodies, _read_chat, heard))
        return [one if isinstance(one, Refused) else Chat(**one) for one in found]

    def embed(self, batches: Sequence[Sequence[str]]) -> list[list[list[float]] | Refused]:
        """For every batch of texts their vectors."""
        bodies = [self.endpoint.request(input=list(texts)) for texts in batches]
        return wait(self.ask("embeddings", bodies, _read_vectors))

    async def ask(
        self, path: str, bodies: Sequence[Mapping[str, Any]], read: Read, heard: Listener | None = None
    ) -> list[Any]:
        """What `read` makes of every reply, or why it was refused. Kept answers are not asked for again.

        When the endpoint fails nothing new is asked, what is under way may still arrive and is kept, then it raises.
        """
        keys = [self._key(path, body) for body in bodies]
        found: dict[str, Any] = {}
        if self.answers is not None:
            found = {key: value for key in keys if (value := self.answers.get(key)) is not None}
        todo = {key: body for key, body in zip(keys, bodies, strict=True) if key not in found}
        self.recalled += len(found)
        if heard is not None and found:
            heard(len(found))
        current = _Round(asyncio.Semaphore(self.endpoint.concurrency), asyncio.Event(), self.asked + len(found))

        async def one(key: str, body: Mapping[str, Any]) -> None:
            async with current.room:
                try:
                    found[key] = reply = await self._settled(path, body, read, current)
                    self._note(key, reply, current)
                except (UserError, RunError) as error:
                    current.end(error)
                else:
                    if heard is not None:
                        heard(1)

        await asyncio.gather(*(one(key, body) for key, body in todo.items()))
        if current.failure is not None:
            raise current.failure
        return [found[key] for key in keys]

    def _key(self, path: str, body: Mapping[str, Any]) -> str:
        """Of all that the answer depends on, the server's address included: what one calls `gpt` is another's."""
        text = json.dumps([self.endpoint.url, path, body], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _note(self, key: str, reply: Any, current: _Round) -> None:
        """Keep an answer; refusals are only counted, for another setting may mend them."""
        if not isinstance(reply, Refused):
            self.asked += 1
            current.answered += 1
            if self.answers is not None:
                self.answers.put(key, reply)
            return
        current.refused += 1
        if current.answered == 0 and current.refused >= ALL_REFUSED:
            raise UserError(
                f"{self.endpoint.url} refuses every request ({reply.why}): mend the model's name or the fields of the "
                "request"
            )

    async def _settled(self, path: str, body: Mapping[str, Any], read: Read, current: _Round) -> Any:
        """The reply to one request, after as many attempts as it needs and is allowed."""
        where = self.endpoint
        for attempt in range(where.retries + 1):
            while (pause := self._resume_at - time.monotonic()) > 0 and current.failure is None:
                await current.rest(pause)
            if current.failure is not None:
                raise current.failure
            sent = await self._attempt(path, body)
            self._reached = self._reached or sent.status > 0
            if sent.status == 200:
                try:
                    return read(json.loads(sent.text))
                except (ValueError, KeyError, TypeError, IndexError, AttributeError):
                    sent = self._misread(sent, current)
            elif sent.status not in BUSY and 0 < sent.status < 500:
                return self._refusal(sent)
            if sent.unreachable and not self._reached:
                raise UserError(f"nothing answers at {where.url} ({sent.text}): start the server or mend --endpoint")
            if attempt == where.retries or (sent.wait or 0.0) > LONGEST_WAIT:
                raise self._failed(sent, attempt + 1)
            if sent.status == 429 and sent.wait is not None:  # the limit is everybody's
                self._resume_at = max(self._resume_at, time.monotonic() + sent.wait)
            pause = min(where.pause * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # never all at once
            await current.rest(pause if sent.wait is None else sent.wait)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, path: str, body: Mapping[str, Any]) -> Sent:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "superrl"}
        if self.endpoint.key is not None:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        request = Request(f"{self.endpoint.url}/{path}", json.dumps(body).encode("ascii"), headers, method="POST")
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                return await in_thread(lambda: send(self._opener, request, self.endpoint.timeout))
        except TimeoutError:
            return Sent(0, f"no reply within {self.endpoint.timeout:g} s")

    def _misread(self, sent: Sent, current: _Round) -> Sent:
        """A reply that is none: of a server of another kind, or, if this one has answered before, a hiccup."""
        if current.answered == 0:
            raise UserError(
                f"{self.endpoint.url} does not speak the OpenAI protocol (it said {one_line(sent.text, 80)!r}): mend "
                "--endpoint"
            )
        return Sent(0, f"it said {one_line(sent.text, 80)!r}")

    def _refusal(self, sent: Sent) -> Refused:
        """What only this request is refused for; what would meet every other one is a UserError."""
        where, why = self.endpoint, reason(sent.text)
        if sent.status in (401, 403):
            lack = "is not set" if where.key is None else "holds one that it refuses"
            raise UserError(f"{where.url} wants a key ({why}): the environment variable {where.key_env} {lack}")
        if sent.status in (404, 405) or 300 <= sent.status < 400:
            raise UserError(
                f"{where.url} answers {sent.status} for the model {where.model!r} ({why}): mend --endpoint or --model"
            )
        return Refused(f"{sent.status}: {why}")

    def _failed(self, sent: Sent, tries: int) -> RunError:
        why = f"status {sent.status}: {reason(sent.text)}" if sent.status else sent.text
        if (sent.wait or 0.0) > LONGEST_WAIT:
            why += f"; it wants {sent.wait:.0f} s of rest"
        kept = self.answers
        told = "" if kept is None else f" its {len(kept)} answers so far are kept in {kept.path};"
        times = "" if tries == 1 else f" {tries} times in a row"
        return RunError(f"{self.endpoint.url} failed{times} ({why});{told} start again when it is back")


def _read_chat(value: Any) -> dict[str, Any]:
    """The part of a chat completion that is kept."""
    choice, usage = value["choices"][0], value.get("usage") or {}
    text = choice["message"].get("content") or ""
    if not isinstance(text, str):
        raise TypeError("content is no text")
    return {
        "text": text,
        "finish": str(choice.get("finish_reason") or ""),
        "prompt_tokens": int(usage.get("prompt_tokens") or 0),
        "completion_tokens": int(usage.get("completion_tokens") or 0),
    }


def _read_vectors(value: Any) -> list[list[float]]:
    rows = sorted(value["data"], key=lambda row: row["index"])
    return [[float(number) for number in row["embedding"]] for row in rows]
