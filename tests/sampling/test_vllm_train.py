"""Whole small runs whose rollouts vLLM draws: the gap is measured, small, and stops the run where it may not be."""

import json

import pytest

from small_runs import letters, recipe, small_model
from superrl.errors import RunError
from superrl.training import train

pytest.importorskip("vllm")

ENGINE = {"engine": "vllm", "memory": 0.25}
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}  # heads of a size that its kernels have


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_measures_its_gap_and_an_excess_stops_it(tmp_path):
    model = small_model(tmp_path / "model", **SHAPE)
    stage = {"steps": 3, "method": {"name": "superrl"}}
    out = train(recipe(model, stage, sampler=ENGINE), tmp_path / "run", reward=letters)
    told = rows(out)
    assert len(told) == 3 and all(0 < row["policy/sampler_gap"] < 1e-4 for row in told)
    assert all(row["grad_norm"] > 0 and row["policy/entropy"] > 1 for row in told)
    strict = recipe(model, stage, sampler={**ENGINE, "max_gap": 1e-12})
    with pytest.raises(RunError, match=r"step 1: the sampler's log-probabilities are .*max_gap: 1e-12"):
        train(strict, tmp_path / "strict", reward=letters)
    assert not (tmp_path / "strict" / "metrics.jsonl").exists()
