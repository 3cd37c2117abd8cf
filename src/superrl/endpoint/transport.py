"""One request over HTTP by the standard library, and the bridges between threads, coroutines and plain calls.

Nothing here raises over what the network does: it is told in a `Sent`. Proxies of the environment are used, except for
this machine. Leaves out what to do about a failure (`client.py`).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from typing import Any, NamedTuple, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from superrl.errors import one_line

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})

Result = TypeVar("Result")


class Sent(NamedTuple):
    """What came of one attempt: status and body; status 0: nothing came back, for the reason in `text`. `wait`: the
    pause that the server asks for, in seconds; `unreachable`: there is not even a server."""

    status: int
    text: str
    wait: float | None = None
    unreachable: bool = False


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would lose its body: the status comes back instead."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        return None


def opener(url: str) -> OpenerDirector:
    """What opens requests to this URL."""
    local = urlsplit(url).hostname in LOCAL
    return build_opener(_NoRedirect, *([ProxyHandler({})] if local else []))


def send(opener: OpenerDirector, request: Request, timeout: float) -> Sent:
    """One request, one reply; `timeout` seconds for every single wait."""
    try:
        with opener.open(request, timeout=timeout) as reply:
            return Sent(reply.status, reply.read().decode(errors="replace"))
    except HTTPError as error:
        try:
            text = error.read().decode(errors="replace")
        except (OSError, HTTPException):
            text = ""
        return Sent(error.code, text or error.reason, seconds(error.headers.get("Retry-After")))
    except URLError as error:
        late = isinstance(error.reason, TimeoutError | ConnectionResetError)
        return Sent(0, one_line(error.reason), unreachable=not late)
    except (OSError, HTTPException) as error:
        return Sent(0, one_line(error) or type(error).__name__)


def seconds(after: str | None) -> float | None:
    """Seconds of a `Retry-After`, which is a number or a date; None where it is neither.

    >>> seconds("2.5"), seconds("Wed, 01 Jan 2020 00:00:00 GMT"), seconds("soon")
    (2.5, 0.0, None)
    """
    if after is None:
        return None
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return None


def reason(text: str) -> str:
    """The message in an error's body: `error.message`, `message`, `detail`, else its beginning.

    >>> reason('{"error": {"message": "too long", "type": "x"}}'), reason("Bad Gateway")
    ('too long', 'Bad Gateway')
    """
    try:
        value = json.loads(text)
    except ValueError:
        return one_line(text)
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        error = next((error[name] for name in ("message", "detail") if error.get(name)), error)
    return one_line(error)


async def in_thread(call: Callable[[], Result]) -> Result:
    """The result of a blocking call, in a thread that nobody waits for at the program's end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def told(settle: Callable[[], None]) -> None:
        if not future.done():  # else it was given up meanwhile
            settle()

    def work() -> None:
        try:
            result = call()
            settle = lambda: future.set_result(result)  # noqa: E731
        except BaseException as error:  # for the one who waits
            failure = error
            settle = lambda: future.set_exception(failure)  # noqa: E731
        try:
            loop.call_soon_threadsafe(told, settle)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=work, name="endpoint", daemon=True).start()
    return await future


def wait(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine, also where a loop is running already (a notebook's): then in a thread beside it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, thread_name_prefix="endpoint") as beside:
        return beside.submit(asyncio.run, work).result()
