"""A signal is remembered, and raised where the loop asks; handlers of before come back."""

import os
import signal
import threading

import pytest

from superrl.errors import Interrupted
from superrl.signals import listening


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_waits_for_the_loop_and_the_second_does_not(number: int, status: int) -> None:
    before = signal.getsignal(number)
    with listening() as signals:
        signals.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as interrupted:
            signals.check()
        assert interrupted.value.exit_code == status
        with pytest.raises(SystemExit) as left:
            os.kill(os.getpid(), number)
        assert left.value.code == status
    assert signal.getsignal(number) is before


def test_off_the_main_thread_nothing_is_caught() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with listening() as signals:
            signals.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
