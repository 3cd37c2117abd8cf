"""What a run sets for its whole process while it lasts: deterministic kernels, and freed memory that stays at hand.

glibc gives every large block back to the system when it is freed; the next one is zeroed by the kernel again, page by
page as it is first touched. A training step on a CPU lives of large blocks: that was a quarter of its time. Leaves out
other C libraries, processes whose owner has tuned glibc himself, and threads (`torch.set_num_threads` is the caller's).
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt (malloc.h): how many free bytes stay at the top of the heap, and from how many bytes on a block
is a mapping of its own."""
MOST = 2**31 - 1
LARGEST = 32 * 2**20
"""Where glibc's own rule for the second ends; older ones take no more."""
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@contextmanager
def settled(device: str) -> Iterator[None]:
    """Deterministic kernels (off the CPU where there are any), as before at the end; memory kept (`memory_kept`)."""
    before, fills = torch.get_deterministic_debug_mode(), cast(Any, torch.utils.deterministic)
    filled = fills.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
        fills.fill_uninitialized_memory = False  # a debugging aid, at 4 % of a learner's step
        with memory_kept():
            yield
    finally:
        torch.set_deterministic_debug_mode(before)
        fills.fill_uninitialized_memory = filled


@contextmanager
def memory_kept() -> Iterator[bool]:
    """Keep freed memory until the end of the block, then give back what lies idle; whether that can be done here.

    Afterwards glibc's thresholds are where its own rule would end: it cannot be told to follow that rule again.
    """
    libc = _glibc()
    if libc is None or not (libc.mallopt(MMAP_THRESHOLD, MOST) or libc.mallopt(MMAP_THRESHOLD, LARGEST)):
        yield False
        return
    libc.mallopt(TRIM_THRESHOLD, MOST)
    try:
        yield True
    finally:
        libc.mallopt(MMAP_THRESHOLD, LARGEST)
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc and nobody has tuned it."""
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in OWN_SETTINGS):
        return None
    libc = ctypes.CDLL(None)
    libc.mallopt.argtypes, libc.mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    libc.malloc_trim.argtypes, libc.malloc_trim.restype = [ctypes.c_size_t], ctypes.c_int
    return libc
