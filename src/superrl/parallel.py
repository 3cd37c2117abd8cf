"""One run on several processes: which of them this is, how work is dealt out, and how all learn what each found.

Records are replicated, work is sharded: every process ("rank") runs the same loop over the same records, and only what
is dear, rolling out, scoring, forward and backward, is divided. So whatever a rank raises concerns all of them: `each`
tells the others, which stop at the same place. Objects travel by gloo on the CPU, gradients by the default group (gloo
or NCCL). torchrun says who is who (RANK, WORLD_SIZE, LOCAL_RANK).

One process has a `World` of its own whose every method does nothing but the work. Leaves out what is divided, and how
weights are split (`learner.sharding`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from superrl.errors import Elsewhere, Interrupted, Lost, RunError, UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A")
B = TypeVar("B")

BUCKET = 2**24
"""Numbers that are summed in one message (64 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a rank raised, in a form that travels: `number` is a signal's, `status` an exit status."""

    kind: str
    text: str
    number: int = 0


class World:
    """The ranks of a run. Without arguments: one process, alone. `aside` is a second line between the same ranks: for
    rolling out and scoring, which may go on beside the training of the step before."""

    def __init__(
        self, rank: int = 0, size: int = 1, group: Any = None, timeout: float = 0.0, aside: World | None = None
    ) -> None:
        self.rank = rank
        self.size = size
        self.aside = aside or self
        self.over = False  # True once a rank is lost: nobody waits for anybody from then on
        self._known: Exception | None = None
        self.group = group
        self._timeout = timeout

    @property
    def alone(self) -> bool:
        """Whether there is nobody to share with."""
        return self.size == 1

    def each(self, work: Callable[[], A], *, joint: bool = False) -> list[A]:
        """What `work` gives on every rank, in the order of ranks. What it raises on one is raised on all. `joint`: all
        must go through its middle together, so that a rank where it fails can only leave."""
        if self.alone:
            return [work()]
        try:
            found = work()
        except Exception as error:  # whatever it is, the others wait for this rank
            self.over = self.over or (joint and error is not self._known)
            self.know(error)
            raise
        return [value for _, value in self._exchange(None, found)]

    def know(self, error: Exception) -> None:
        """Tell all ranks, wherever they are, of an error that not all know yet: they raise it where they meet next."""
        self.over = self.over or isinstance(error, Lost)  # perhaps lost on the other line: not waited for twice
        if not (self.alone or self.over or error is self._known):
            self._exchange(_failure(error), None)
            self._known = error

    def together(self, work: Callable[[], A], *, joint: bool = False) -> A:
        """What `work` gives on this rank, once it is done on all; what it raises on one is raised on all."""
        if self.alone:
            return work()
        found: list[A] = []
        self.each(lambda: found.append(work()), joint=joint)
        return found[0]

    def first(self, work: Callable[[], A]) -> A:
        """What `work` gives on rank 0, the only one that does it, on all."""
        if self.alone:
            return work()
        return self.each(lambda: work() if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def spread(
        self,
        items: Sequence[A],
        shares: Sequence[Sequence[int]],
        work: Callable[[Sequence[A]], Sequence[B]],
        *,
        joint: bool = False,
    ) -> list[B]:
        """One result an item, on all ranks, in order; rank r works on the items that `shares[r]` names."""
        if self.alone:
            return list(work(items))
        mine = [items[i] for i in shares[self.rank]]
        placed: dict[int, B] = {}
        for share, found in zip(shares, self.each(lambda: work(mine), joint=joint), strict=True):
            placed |= zip(share, found, strict=True)
        return [placed[i] for i in range(len(items))]

    def same(self, value: str, what: str) -> None:
        """Stop the run where a value that every rank computes for itself is not the same on all."""
        if self.alone:
            return
        found = self.each(lambda: value)
        if others := [rank for rank, one in enumerate(found) if one != found[0]]:
            self._known = RunError(
                f"the processes no longer agree on {what} (process {others[0]} differs from process 0): use the same "
                "versions, data and kind of processor everywhere, then --resume"
            )
            raise self._known

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all ranks in each tensor's place; all ranks give tensors of the same shapes and type."""
        if self.alone:
            return
        import torch
        import torch.distributed as dist

        for bucket in buckets([one.numel() for one in tensors], BUCKET):
            parts = [tensors[i] for i in bucket]
            flat = torch.cat([one.flatten() for one in parts])
            with self._meeting():
                dist.all_reduce(flat)
            for one, summed in zip(parts, flat.split([one.numel() for one in parts]), strict=True):
                one.copy_(summed.view_as(one))

    def _exchange(self, failure: Failure | None, value: A) -> list[tuple[Failure | None, A]]:
        """Every rank's (failure, value). A failure of any is raised: this rank's own by whoever called, any other's
        here."""
        import torch.distributed as dist

        entries: list[Any] = [None] * self.size
        with self._meeting():  # the barrier says who is missing
            dist.monitored_barrier(self.group, timedelta(seconds=self._timeout), wait_all_ranks=True)
            dist.all_gather_object(entries, (failure, value), group=self.group)
        failures = {rank: one for rank, (one, _) in enumerate(entries) if one is not None}
        if failures and (told := self._raised(failures, failure)) is not None:
            self._known = told
            raise told
        return entries

    def _raised(self, failures: dict[int, Failure], own: Failure | None) -> Exception | None:
        """What this rank raises: rank 0 speaks for all, the others leave silently; None: this rank's own exception."""
        rank, worst = min(failures.items(), key=lambda one: (one[1].kind == "signal", one[0]))
        if worst.kind == "signal":
            return Interrupted(worst.number)
        if self.rank:
            return None if own is not None and own.kind == "bug" else Elsewhere(2 if worst.kind == "user" else 1)
        if rank == 0:
            return None
        if worst.kind == "user":
            return UserError(worst.text)
        return RunError(f"process {rank} of {self.size}: {worst.text}")

    @contextmanager
    def _meeting(self) -> Iterator[None]:
        """Around a collective: what it raises means that another rank is not there."""
        if self.over:
            raise Lost(f"process {self.rank} of {self.size}: another process has failed")
        try:
            yield
        except RuntimeError as error:
            self.over = True
            raise Lost(
                f"process {self.rank} of {self.size} lost the others, one of which has died or was silent for "
                f"{self._timeout:g} s, parallel.timeout ({one_line(error, 240)}): see what that one said, then --resume"
            ) from error


ALONE = World()


@contextmanager
def opened(device: str, timeout: float) -> Iterator[World]:
    """The ranks that torchrun started, joined (without it: ALONE). `device` is the recipe's; on GPUs each rank takes
    the one of its LOCAL_RANK. `timeout`: seconds after which a rank that is waited for counts as lost."""
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"model.device: {device} is one device, but {size} processes were started: leave it at auto")
    on_gpu, local = device != "cpu" and torch.cuda.is_available(), _number("LOCAL_RANK", 0)
    if on_gpu and local >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started {_number('LOCAL_WORLD_SIZE', size)} processes here, where there are "
            f"{torch.cuda.device_count()} GPUs: start as many as there are GPUs, or set model.device=cpu"
        )
    if on_gpu:
        torch.cuda.set_device(local)
    limit, ours = timedelta(seconds=timeout), not dist.is_initialized()
    try:
        if ours:
            store, number, _ = next(iter(rendezvous("env://", timeout=limit)))
            place = PrefixStore(invitation(store, number, size, timeout), store)
            backend = "nccl" if on_gpu else "gloo"
            dist.init_process_group(backend, store=place, rank=number, world_size=size, timeout=limit)
        groups = [dist.new_group(backend="gloo", timeout=limit) for _ in range(2)]
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"process {rank()} of {size} did not find the others ({one_line(error, 240)}): start them all by torchrun"
        ) from error
    aside = World(dist.get_rank(), dist.get_world_size(), groups[1], timeout)
    world = World(aside.rank, aside.size, groups[0], timeout, aside)
    try:
        yield world
    finally:
        if ours and not world.over and not aside.over:  # with a rank lost, taking leave of it would wait for it
            dist.destroy_process_group()


def invitation(store: Any, rank: int, size: int, seconds: float) -> str:
    """A name that the ranks of this attempt agree on, and that no earlier one had. torchrun hands a run that it starts
    again the store of before, where the addresses of dead processes still stand: all that follows is kept under it."""
    mine, until = uuid4().hex, time.monotonic() + seconds
    if rank == 0:
        store.set("superrl/invitation", mine)
    while time.monotonic() < until:
        if rank == 0 and store.check(replies := [f"superrl/{mine}/{other}" for other in range(1, size)]):
            store.set(f"superrl/{mine}/met", json.dumps([store.get(reply).decode() for reply in replies]))
            return mine
        if rank and store.check(["superrl/invitation"]):
            name = store.get("superrl/invitation").decode()
            store.set(f"superrl/{name}/{rank}", mine)
            met = f"superrl/{name}/met"
            if store.check([met]) and json.loads(store.get(met))[rank - 1] == mine:  # not to this rank of before
                return str(name)
        time.sleep(0.02)
    raise RuntimeError(f"not all of {size} processes came within {seconds:g} s")


def rank() -> int:
    """The number of this process in its run; 0 where it is alone."""
    return _number("RANK", 0) if _number("WORLD_SIZE", 1) > 1 else 0


def restarts() -> bool:
    """Whether torchrun starts the run again if it loses a process (--max-restarts): then none can tell its first start
    from a later one, for torchrun counts them on each machine apart."""
    return _number("TORCHELASTIC_MAX_RESTARTS", 0) > 0


def neighbours() -> int:
    """How many processes of the run are on this machine."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def dealt(costs: Sequence[float], parts: int) -> list[list[int]]:
    """The items in `parts` hands of nearly equal cost, each in order: the dearest first, to whoever has least.

    >>> dealt([3, 1, 1, 1, 2], 2)
    [[0, 2], [1, 3, 4]]
    """
    hands: list[list[int]] = [[] for _ in range(parts)]
    sums = [0.0] * parts
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = sums.index(min(sums))
        hands[least].append(item)
        sums[least] += costs[item]
    return [sorted(hand) for hand in hands]


def buckets(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Consecutive items together, at most `most` in sum unless one alone is more.

    >>> buckets([3, 3, 9, 1, 1], 6)
    [[0, 1], [2], [3, 4]]
    """
    found: list[list[int]] = []
    held = 0
    for item, size in enumerate(sizes):
        if not found or held + size > most:
            found.append([])
            held = 0
        found[-1].append(item)
        held += size
    return found


def _failure(error: Exception) -> Failure:
    if isinstance(error, Interrupted):
        return Failure("signal", str(error), error.exit_code - 128)
    if isinstance(error, UserError | RunError):
        return Failure("user" if isinstance(error, UserError) else "run", str(error))
    return Failure("bug", f"unexpected {type(error).__name__}: {one_line(error) or 'no message'}")


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
