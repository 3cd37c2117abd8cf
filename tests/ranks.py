"""Several ranks from one test: forked after everything is imported, so that a rank costs no second start of torch."""

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.tensor

import superrl.training  # noqa: F401
from superrl import parallel

PATIENCE = 120.0
"""Seconds until a rank that says nothing fails the test."""


class Raised(NamedTuple):
    """How a rank ended that raised."""

    kind: type[BaseException]
    text: str
    status: int | None


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {**{key: str(value) for key, value in numbers.items()}, "MASTER_ADDR": "127.0.0.1"}


def on_ranks(size: int, work: Callable[..., Any], *arguments: Any, **extra: str) -> list[Any]:
    """What `work(*arguments)` gives on every rank; what it raises comes back as `Raised`. `extra` goes into the
    environment. A rank that ends without a word gives its exit status."""
    if sys.platform != "linux":
        pytest.skip("forks after torch has started")
    port, context = free_port(), multiprocessing.get_context("fork")
    ranks = []
    for rank in range(size):
        here, there = context.Pipe(duplex=False)
        told = {**environment(rank, size, port), **extra}
        process = context.Process(target=_carry_out, args=(there, told, work, arguments))
        process.start()
        there.close()
        ranks.append((process, here))
    found = [_heard(here, process) for process, here in ranks]
    for process, _ in ranks:
        process.join(PATIENCE)
    return found


def _heard(here: Connection, process: Any) -> Any:
    assert here.poll(PATIENCE), "a rank says nothing"
    try:
        return pickle.loads(here.recv_bytes())
    except EOFError:
        process.join(PATIENCE)
        return process.exitcode


def _carry_out(there: Connection, told: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(told)
    torch.set_num_threads(1)
    try:
        there.send_bytes(pickle.dumps(work(*arguments)))
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        there.send_bytes(pickle.dumps(Raised(type(error), str(error), getattr(error, "exit_code", None))))


def in_world(work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(world, *arguments)` in the world of the environment."""
    with parallel.opened("auto", 60.0) as world:
        return work(world, *arguments)
