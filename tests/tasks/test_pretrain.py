"""The script that makes the base model: what it trains on, and that a seed decides the weights."""

from __future__ import annotations

import argparse
import importlib.util
import random
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch

from superrl.tasks import split_of

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_tiny.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_tiny", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights_after(script: ModuleType, seed: int, steps: int) -> torch.Tensor:
    torch.manual_seed(seed)
    tokenizer = script.build_tokenizer()
    model = script.build_model(tokenizer)
    script.pretrain(model, tokenizer, argparse.Namespace(seed=seed, steps=steps, batch=4, lr=2e-3, families=["chain"]))
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_base_sees_only_questions_of_the_train_split(script: ModuleType) -> None:
    items = islice(script.easy_items(["chain", "logic", "route"], random.Random(0)), 300)
    assert {split_of(item.question) for item in items} == {"train"}


def test_the_loss_is_taken_on_the_completion_and_its_eos(script: ModuleType) -> None:
    tokenizer = script.build_tokenizer()
    items = list(islice(script.easy_items(["route"], random.Random(0)), 8))
    tokens, loss_mask = script.collate(items, tokenizer)
    for item, row, kept in zip(items, tokens, loss_mask, strict=True):
        assert tokenizer.decode(row[kept]) == "\n".join(item.steps) + "<eos>"
        assert tokenizer.decode(row[: len(item.question)]) == item.question
        assert int(kept.nonzero()[0]) == len(item.question)


def test_the_seed_decides_the_weights(script: ModuleType) -> None:
    assert torch.equal(weights_after(script, 0, 2), weights_after(script, 0, 2))
    assert not torch.equal(weights_after(script, 0, 2), weights_after(script, 1, 2))
    assert not torch.equal(weights_after(script, 0, 0), weights_after(script, 0, 2))
