"""Where superrl keeps what it would otherwise find out again: verdicts, answers, compiled code."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$SUPERRL_CACHE, or .cache/superrl in the home folder."""
    given = os.environ.get("SUPERRL_CACHE")
    return Path(given) if given else Path("~/.cache/superrl").expanduser()
