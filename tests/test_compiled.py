"""C compiled on the machine that runs it: kept, made anew when it changes, and done without where it cannot be made."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from superrl import compiled

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")

SOURCE = """
int answer(void) { return ANSWER; }
int threads(void) {
    int found = 0;
#pragma omp parallel num_threads(2)
#pragma omp atomic
    found++;
    return found;
}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUPERRL_CACHE", str(tmp_path / "cache"))
    compiled.functions.cache_clear()
    (tmp_path / "some.c").write_text(SOURCE)
    return tmp_path / "some.c"


def kept(source: Path) -> list[str]:
    return sorted(one.name for one in (source.parent / "cache" / "compiled").iterdir())


def test_every_macro_and_every_text_is_a_library_of_its_own(source: Path) -> None:
    one, other = compiled.functions(source, ANSWER=41), compiled.functions(source, ANSWER=42)
    assert one is not None and other is not None
    assert (one.answer(), other.answer(), len(kept(source))) == (41, 42, 2)
    compiled.functions.cache_clear()
    source.write_text(SOURCE.replace("ANSWER", "ANSWER + 1"))
    changed = compiled.functions(source, ANSWER=42)
    assert changed is not None and changed.answer() == 43 and len(kept(source)) == 3


def test_what_is_kept_is_not_compiled_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.functions(source, ANSWER=1)
    compiled.functions.cache_clear()
    compiled.version(compiled.found_compilers()[0])
    monkeypatch.setattr(compiled, "_run", lambda command: pytest.fail("compiled again"))
    found = compiled.functions(source, ANSWER=1)
    assert found is not None and found.answer() == 1


def runtimes() -> set[str]:
    """The OpenMP runtimes of this process, where the system tells."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.is_file() else []
    return {line.split()[-1] for line in lines if re.search("lib[gi]?omp", line)}


def test_its_threads_are_torchs(source: Path) -> None:
    """Where torch brings a runtime under the system's own name the loader would see to it, under another nobody."""
    before = runtimes()
    found = compiled.functions(source, ANSWER=1)
    assert found is not None and found.threads() == 2
    assert runtimes() == before, "a second team of threads would fight with torch's for the cores"


@pytest.mark.parametrize("text", ["this is no C", "int missing(void); int answer(void) { return missing(); }"])
def test_what_cannot_be_compiled_or_loaded_is_none(source: Path, text: str) -> None:
    source.write_text(text)
    assert compiled.functions(source, ANSWER=1) is None


def test_without_a_compiler_it_is_none(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(source.parent))
    assert compiled.found_compilers() == []
    assert compiled.functions(source, ANSWER=1) is None


def test_a_folder_that_cannot_be_written_to_is_done_without(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source.parent / "file").write_text("")
    monkeypatch.setenv("SUPERRL_CACHE", str(source.parent / "file"))
    found = compiled.functions(source, ANSWER=7)
    assert found is not None and found.answer() == 7


def test_the_next_compiler_is_tried(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcc = str(shutil.which("gcc"))
    other = source.parent / "other"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setattr(compiled, "found_compilers", lambda: [str(other), gcc])
    found = compiled.functions(source, ANSWER=3)
    assert found is not None and found.answer() == 3


def test_without_a_home_it_is_compiled_for_this_process(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiled, "cache_folder", homeless)
    found = compiled.functions(source, ANSWER=6)
    assert found is not None and found.answer() == 6
    assert compiled.functions(source.parent / "missing.c", ANSWER=6) is None


def test_a_library_that_was_cut_short_is_made_anew(source: Path) -> None:
    compiled.functions(source, ANSWER=5)
    [name] = kept(source)
    broken = source.parent / "cache" / "compiled" / name
    broken.unlink()  # what this process has loaded stays as it is
    broken.write_bytes(b"\x7fELF")
    script = "import sys, torch; from pathlib import Path; from superrl.compiled import functions\n"
    script += "print(functions(Path(sys.argv[1]), ANSWER=5).answer())"
    done = subprocess.run([sys.executable, "-c", script, str(source)], capture_output=True, text=True)
    assert done.stdout.strip() == "5", done.stderr
    assert (source.parent / "cache" / "compiled" / name).stat().st_size > 1000, "kept, for the next process"
