"""C of ours, compiled on the machine that runs it, for what no library does well; without a compiler, None.

gcc's OpenMP is bound to the runtime that torch has loaded, so that both compute with one team of threads (clang's does
not go with it: None). What was compiled is kept (`home.cache_folder`) under a name made of all that it depends on.
Leaves out what to do instead, which whoever asks must be able to do.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

from superrl.home import cache_folder

FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
"""Nothing that lets the compiler change the order of a sum, or forget that a number may be none."""
LINKED = ("-lm",)
"""And no -fopenmp: its functions are those that torch has loaded."""
PATIENCE = 120
"""Seconds that a compilation may take."""


@cache
def functions(source: Path, **macros: int) -> ctypes.CDLL | None:
    """The functions of a C file, compiled with these macros; None where that is not possible."""
    options = [*FLAGS, *(f"-D{name}={value}" for name, value in sorted(macros.items()))]
    for compiler in found_compilers():
        with suppress(OSError, RuntimeError, ValueError, subprocess.SubprocessError):
            return _compiled(compiler, options, source)
    return None


def _compiled(compiler: str, options: list[str], source: Path) -> ctypes.CDLL:
    """A library, the kept one if there is one; an error of the file, the compiler or the loader."""
    identity = [compiler, version(compiler), platform.machine(), *cpu(), source.read_text(), *options, *LINKED]
    name = f"{source.stem}-{sha256(repr(identity).encode()).hexdigest()[:20]}.so"
    command = [compiler, *options]
    with suppress(OSError, RuntimeError):  # no home folder, one that cannot be written to, a file that does not load
        kept = cache_folder() / "compiled" / name
        if kept.exists():
            with suppress(OSError):
                return ctypes.CDLL(str(kept))
        kept.parent.mkdir(parents=True, exist_ok=True)
        return _made(kept, source, command)
    with tempfile.TemporaryDirectory() as folder:
        return _made(Path(folder) / name, source, command)


def _made(target: Path, source: Path, command: list[str]) -> ctypes.CDLL:
    """The library compiled into a file; others may be compiling it at the same time."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        code, linked = Path(folder) / "code.o", Path(folder) / "code.so"
        _run([*command, "-c", str(source), "-o", str(code)])
        _run([command[0], "-shared", str(code), *LINKED, "-o", str(linked)])
        linked.replace(target)
    return ctypes.CDLL(str(target))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    return done.stdout


def found_compilers() -> list[str]:
    """The C compilers, in the order in which they are tried: $CC, gcc, cc."""
    names = (os.environ.get("CC"), "gcc", "cc")
    return list(dict.fromkeys(path for name in names if name and (path := shutil.which(name))))


@cache
def version(compiler: str) -> str:
    """The first line of what a compiler says of itself; empty if it says nothing."""
    try:
        return next(iter(_run([compiler, "--version"]).splitlines()), "")
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def cpu(about: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The instructions that this machine's processor has beyond its kind's; none where the system does not tell."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", about.read_text(), re.MULTILINE) if about.is_file() else None
    return tuple(found.group(1).split()) if found else ()
