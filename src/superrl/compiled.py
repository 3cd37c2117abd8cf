"""C of ours, compiled on the machine that runs it, for what no library does well; without a compiler, None.

gcc's OpenMP is bound to the runtime that torch has loaded, so that both compute with one team of threads. What was
compiled is kept (`home.cache_folder`) under a name made of all that it depends on. Leaves out what to do instead, which
whoever asks must be able to do.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

from superrl.home import cache_folder

FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
"""Nothing that lets the compiler change the order of a sum, or forget that a number may be none."""
PATIENCE = 120
"""Seconds that a compilation may take."""


@cache
def library(source: Path, **macros: int) -> ctypes.CDLL | None:
    """The functions of a C file, compiled with these macros; None where that is not possible."""
    compiler = found_compiler()
    if compiler is None:
        return None
    command = [*FLAGS, *(f"-D{name}={value}" for name, value in sorted(macros.items()))]
    identity = [compiler, version(compiler), cpu(), source.read_text(), *command]
    name = f"{source.stem}-{sha256(repr(identity).encode()).hexdigest()[:20]}.so"
    try:
        return _kept(cache_folder() / "compiled" / name, source, [compiler, *command])
    except (
        OSError
    ):  # no compiler after all, a folder that nothing can be written to, a symbol that torch does not bring
        try:
            with tempfile.TemporaryDirectory() as folder:
                return _kept(Path(folder) / name, source, [compiler, *command])
        except (OSError, subprocess.SubprocessError):
            return None
    except subprocess.SubprocessError:
        return None


def _kept(target: Path, source: Path, command: list[str]) -> ctypes.CDLL:
    """The library in the file `target`, made if it is not there; others may be making it at the same time."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            code, linked = Path(folder) / "code.o", Path(folder) / "code.so"
            _run([*command, "-c", str(source), "-o", str(code)])
            _run([command[0], "-shared", str(code), "-o", str(linked)])  # without -fopenmp: torch has it
            linked.replace(target)
    return ctypes.CDLL(str(target))


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


def found_compiler() -> str | None:
    """The C compiler: $CC, else cc or gcc."""
    return next((path for name in (os.environ.get("CC"), "cc", "gcc") if name and (path := shutil.which(name))), None)


@cache
def version(compiler: str) -> str:
    """The first line of what a compiler says of itself; empty if it says nothing."""
    try:
        return next(iter(_run([compiler, "--version"]).splitlines()), "")
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def cpu() -> str:
    """What this machine's instructions are, where the system tells."""
    about = Path("/proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", about.read_text(), re.MULTILINE) if about.is_file() else None
    return found.group(1).strip() if found else ""
