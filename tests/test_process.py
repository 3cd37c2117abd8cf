"""What a run sets for its process: a freed block costs the next one no page faults, and all is put back."""

import os
import subprocess
import sys

import pytest
import torch

from superrl import process

FAULTS = """
import resource
import torch
from superrl import process

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

def touch(times):
    for _ in range(times):
        torch.ones(4 << 20)  # 16 MiB: 4,096 pages

with process.memory_kept() as can:
    touch(20)  # malloc's own caches of small pieces fill first, until then a block's neighbours are not its own
    before = faults()
    touch(5)
    print(can, faults() - before, end=" ")
    held = resident()
print(held - resident())
"""


def run(**environment: str) -> list[str]:
    """Whether memory is kept, the faults of five blocks more, and the pages given back at the end."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(process._glibc() is None, reason="not a glibc that nobody has tuned")
def test_freed_memory_is_taken_again_and_given_back_at_the_end() -> None:
    can, faults, returned = run()
    assert can == "True"
    assert int(faults) < 2_000  # otherwise five times 4,096
    assert int(returned) > 3_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_who_has_tuned_malloc_keeps_it() -> None:
    can, _, _ = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert can == "False"


def test_what_torch_was_set_to_comes_back_after_a_failure() -> None:
    fills = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), fills.fill_uninitialized_memory  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError), process.settled("cpu"):
        assert torch.are_deterministic_algorithms_enabled()
        assert not fills.fill_uninitialized_memory  # type: ignore[attr-defined]
        raise ZeroDivisionError
    assert before == (torch.get_deterministic_debug_mode(), fills.fill_uninitialized_memory)  # type: ignore[attr-defined]
