"""The recipe's `sampler` section: what vllm alone sets, what is refused, what a resumed run may change."""

import pytest
import torch

from small_runs import recipe, rows, run
from superrl import engine, models
from superrl.config import ModelConfig, SamplerConfig
from superrl.errors import UserError
from superrl.runfolder import changed_key


def test_vllm_is_watched_and_corrected_and_local_is_not():
    plain = recipe("tiny").sampler
    assert (plain.engine, plain.max_gap, plain.importance_cap) == ("local", None, None)
    vllm = recipe("tiny", sampler={"engine": "vllm"})
    assert (vllm.sampler.max_gap, vllm.sampler.importance_cap) == (0.1, 2.0)
    own = recipe("tiny", sampler={"engine": "vllm", "max_gap": None, "importance_cap": 5.0}).sampler
    assert (own.max_gap, own.importance_cap) == (None, 5.0)
    assert recipe("tiny", sampler=vllm.dump()["sampler"]) == vllm  # what config.yaml says is what was used


@pytest.mark.parametrize(
    ("sampler", "complaint"),
    [
        ({"url": "http://x"}, "url is that of a vLLM server: set engine: vllm"),
        ({"engine": "vllm", "share": "/d"}, "share is where a server finds new weights: name its url"),
        ({"engine": "vlm"}, "sampler.engine"),
        (
            {"engine": "vllm", "url": "http://x", "dtype": "float32"},
            "a server computes in the type that it was started",
        ),
        ({"engine": "vllm", "graphs": True}, "graphs are the local engine's: set engine: local"),
        ({"engine": "vllm", "max_gap": 0.0}, "sampler.max_gap"),
    ],
)
def test_what_makes_no_sense_is_refused(sampler, complaint):
    with pytest.raises(UserError, match=complaint):
        recipe("tiny", sampler=sampler)


def test_graphs_on_a_cpu_are_refused():
    model, tokenizer = models.load_model(ModelConfig(name="tiny")), models.load_tokenizer("tiny")
    with pytest.raises(UserError, match=r"sampler\.graphs: they are for a GPU, the model is on cpu"):
        engine.new_sampler(model, tokenizer, torch.float32, [], config=SamplerConfig(graphs=True))


@pytest.mark.parametrize("other", ["float32", "bfloat16"])
def test_the_sampler_may_compute_in_another_type_than_the_learner(other, tmp_path):
    given = {"float32": "bfloat16", "bfloat16": "float32"}[other]
    model, tokenizer = models.load_model(ModelConfig(name="tiny")), models.load_tokenizer("tiny")
    sampler = engine.new_sampler(model, tokenizer, getattr(torch, given), [], config=SamplerConfig(dtype=other))
    assert next(sampler._model.parameters()).dtype == getattr(torch, other)
    assert sampler.deterministic is (other == "float32")
    gaps = {}
    for dtype in (given, other):
        settings = recipe("tiny", sampler={"dtype": dtype}, model={"name": "tiny", "dtype": given})
        gaps[dtype] = rows(run(settings, tmp_path / dtype))[0]["policy/sampler_gap"]
    assert gaps["float32"] < gaps["bfloat16"]


def test_nothing_is_learnt_from_what_vllm_truncates():
    cut = {"truncation": {"top_p": 0.9, "biased": True}}
    assert recipe("tiny", cut).stages[0].truncation is not None
    with pytest.raises(UserError, match=r"stages\.0\.truncation: vLLM reports probabilities of what it leaves"):
        recipe("tiny", cut, sampler={"engine": "vllm"})


def test_a_resumed_run_may_find_its_server_elsewhere_but_no_other_engine():
    before = recipe("tiny", sampler={"engine": "vllm", "url": "http://a:8000"}).dump()
    for change in ({"url": "http://b:8000"}, {"max_gap": 0.5}, {"share": "/mnt"}):
        now = recipe("tiny", sampler={"engine": "vllm", "url": "http://a:8000", **change}).dump()
        assert changed_key(before, now) is None
    assert changed_key(before, recipe("tiny").dump()) == "sampler.engine"
    other = recipe("tiny", sampler={"engine": "vllm", "dtype": "float32"}).dump()
    assert changed_key(before, other) == "sampler.dtype"
