"""Pages for tests: their elements and text, and what a real browser makes of them, where there is one."""

import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

HOSTILE = (
    "<script>hacked()</script></script><img src=x onerror=hacked()>\"'><b>&amp;\x00\x1b[31m\ud800\u202e</pre></title>"
)


class Reader(HTMLParser):
    """The elements of a page with their attributes, and all its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, name: str, **attributes: str) -> int:
        return sum(t == name and attributes.items() <= a.items() for t, a in self.tags)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


NAMES = ("chromium", "chromium-browser", "google-chrome", "headless_shell", "chromium-headless-shell")
BROWSER = os.environ.get("SUPERRL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"needs a Chromium: set SUPERRL_CHROMIUM, or put one of {', '.join(NAMES)} on PATH"
)


def opened(file: Path, *, width: int = 1200) -> tuple[Reader, list[str], set[str]]:
    """A page as a browser has it after its scripts ran: the elements, console messages, addresses asked for."""
    assert BROWSER is not None
    log = file.with_suffix(".net.json")
    arguments = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
        f"--user-data-dir={file.parent / 'profile'}", f"--window-size={width},800", "--enable-logging=stderr",
        f"--log-net-log={log}", "--virtual-time-budget=1000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    ended = subprocess.run(arguments, capture_output=True, timeout=120, check=True)
    console = [line for line in ended.stderr.decode(errors="replace").splitlines() if ":CONSOLE" in line]
    events = json.loads(log.read_text())["events"]
    asked = {event["params"]["url"] for event in events if "url" in event.get("params", {})}
    return read(ended.stdout.decode()), console, asked
