"""A step's clocks: the keys of timing.jsonl, and CPU seconds beside wall-clock."""

import time

from superrl.metrics import TIMING_KEYS
from superrl.timing import Clock


def test_a_row_has_every_key_in_order():
    assert tuple(Clock().row(1, "rl", {})) == TIMING_KEYS


def test_cpu_seconds_are_what_was_computed_not_what_was_waited_for():
    clock = Clock()
    time.sleep(0.2)
    waited = clock.row(1, "rl", {})
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    worked = clock.row(1, "rl", {})
    assert waited["time/cpu"] < 0.1 <= waited["time/step"]
    assert worked["time/cpu"] - waited["time/cpu"] >= 0.1
