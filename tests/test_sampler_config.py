"""The recipe's `sampler` section: what vllm alone sets, what is refused, what a resumed run may change."""

import pytest

from small_runs import recipe
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
        ({"engine": "vllm", "max_gap": 0.0}, "sampler.max_gap"),
    ],
)
def test_what_makes_no_sense_is_refused(sampler, complaint):
    with pytest.raises(UserError, match=complaint):
        recipe("tiny", sampler=sampler)


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
