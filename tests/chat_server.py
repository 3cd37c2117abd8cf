"""A real HTTP server on this machine that answers as an OpenAI-compatible one, by a function the test gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as it arrived; `number` counts from 0 over all of them."""

    path: str
    body: dict[str, Any]
    headers: Mapping[str, str]
    number: int

    @property
    def last(self) -> str:
        """The last message of a chat."""
        return self.body["messages"][-1]["content"]


@dataclass
class Answer:
    """Status, body (JSON, or bytes as they stand) and headers; `cut`: the connection breaks before any of it."""

    body: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class Server:
    url: str
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0


def chat(text: str | None, finish: str = "stop") -> Answer:
    """A chat completion that says this."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return Answer({"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage})


@contextmanager
def serving(answer: Callable[[Asked], Answer]) -> Iterator[Server]:
    """A server that answers so, until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked = Asked(self.path, body, dict(self.headers), len(server.asked))
                server.asked.append(asked)
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                said = answer(asked)
            finally:
                with lock:  # before the reply: whoever has it may ask again
                    server.at_once -= 1
            self._reply(said)

        def _reply(self, said: Answer) -> None:
            if said.cut:
                self.connection.close()
                return
            data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            try:
                self.send_response(said.status)
                for name, value in {"Content-Length": str(len(data)), **said.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                return  # the one who asked has gone

        def log_message(self, format: str, *args: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
