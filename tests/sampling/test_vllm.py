"""vLLM inside the process, for real: what it draws is what the learner's weights say, also after new ones."""

from dataclasses import replace
from itertools import chain

import pytest
import torch
from parity import gaps, is_greedy, moved, prompts, unsure

from superrl import models
from superrl.config import ModelConfig
from superrl.errors import RunError, UserError
from superrl.learner.copies import named_weights
from superrl.sampling.protocol import Prompt, SamplingLimits
from superrl.truncation import Truncation

pytest.importorskip("vllm")
from superrl.sampling.vllm import VllmSampler

LIMITS = SamplingLimits(24)
LONGEST = 96


@pytest.fixture
def sure():
    return models.load_model(ModelConfig(name="tiny"))


@pytest.fixture
def model(sure):
    return unsure(sure)


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("tiny")


@pytest.fixture(scope="module")
def engine(tokenizer):
    model = models.load_model(ModelConfig(name="tiny"))
    sampler = VllmSampler(
        model, tokenizer, eos_ids=[tokenizer.eos_token_id], dtype=torch.float32, memory=0.25, max_length=LONGEST
    )
    yield sampler
    sampler.close()


@pytest.fixture
def sampler(engine, model):
    engine.load(dict(named_weights(model)), version=1)
    return engine


def flat(groups):
    return list(chain.from_iterable(groups))


def test_greedy_output_and_log_probabilities_are_the_learner_s(sampler, model, tokenizer):
    drawn = flat(sampler.sample(prompts(tokenizer), LIMITS))
    assert len(drawn) == 20 and len({t.text for t in drawn}) > 5
    assert all(is_greedy(model, t) for t in drawn)
    assert float(gaps(model, drawn).max()) < 1e-4
    assert {t.version for t in drawn} == {1} and {t.stop for t in drawn} <= {"eos", "length"}
    assert all(t.entropy is None for t in drawn)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_log_probabilities_are_those_at_the_sampling_temperature(sampler, model, tokenizer, temperature):
    drawn = flat(sampler.sample(prompts(tokenizer, 3, temperature), LIMITS))
    assert float(gaps(model, drawn).max()) < 1e-4
    wrong = [replace(t, temperature=2 * temperature) for t in drawn]
    assert float(gaps(model, wrong).mean()) > 1e-3


def test_new_weights_change_everything_that_is_drawn_after_them(sampler, model, tokenizer):
    """The tied head and cached prefixes included: the same prompts are asked before and after."""
    before = flat(sampler.sample(prompts(tokenizer, 2, 1.0), LIMITS))
    assert float(gaps(moved(model), before).mean()) > 1e-2
    sampler.load(dict(named_weights(model)), version=2)
    after = flat(sampler.sample(prompts(tokenizer, 2, 1.0), LIMITS))
    assert float(gaps(model, after).max()) < 1e-4 and {t.version for t in after} == {2}
    assert all(is_greedy(model, t) for t in flat(sampler.sample(prompts(tokenizer), LIMITS)))


def test_draws_hang_on_the_key_and_not_on_the_neighbours(sampler, tokenizer):
    wanted = prompts(tokenizer, 4, 1.3)
    together = sampler.sample(wanted, LIMITS)
    assert len({t.tokens for t in together[0]}) > 1
    assert sampler.sample(wanted[::-1], LIMITS)[::-1] == together
    assert sampler.sample([replace(wanted[3], n=2)], LIMITS) == [together[3][:2]]
    other = sampler.sample([replace(one, key=(8, *one.key)) for one in wanted], LIMITS)
    assert [t.tokens for t in flat(other)] != [t.tokens for t in flat(together)]


def test_what_ends_a_completion(sampler, tokenizer):
    sampler.load(dict(named_weights(models.load_model(ModelConfig(name="tiny")))), version=1)
    asked = prompts(tokenizer, 1, 1.0)
    whole = flat(sampler.sample(asked, SamplingLimits(48)))
    ended = [t for t in whole if t.stop == "eos"]
    assert ended and all(t.tokens[-1] == tokenizer.eos_token_id and "#" in t.text for t in ended)
    cut = flat(sampler.sample(asked, SamplingLimits(48, stop=("=",))))
    stopped = [t for t in cut if t.stop == "stop"]
    assert len(stopped) > 10 and all(t.text.endswith("=") and t.text.count("=") == 1 for t in stopped)
    for short, long in zip(cut, whole, strict=True):
        assert long.tokens[: len(short.tokens)] == short.tokens
    given = flat(sampler.sample([replace(one, drawn=20) for one in asked], LIMITS))
    assert {t.length for t in given if t.stop == "length"} == {4}
    near = Prompt((5,) * (LONGEST - 3), 1, (0,))
    assert sampler.max_length == LONGEST
    assert sampler.sample([near], LIMITS)[0][0].length <= 3
    with pytest.raises(UserError, match="leaves no room"):
        sampler.sample([Prompt((5,) * LONGEST, 1, (0,))], LIMITS)


def test_truncation_reaches_the_engine(sampler, model, tokenizer):
    likeliest = SamplingLimits(24, truncation=Truncation(top_k=1))
    assert all(is_greedy(model, t) for t in flat(sampler.sample(prompts(tokenizer, 1, 1.5), likeliest)))


def test_an_interruption_leaves_nothing_behind(sampler, tokenizer):
    heard = []

    def interrupted(count):
        heard.append(count)
        if len(heard) == 3:
            raise KeyboardInterrupt

    wanted = prompts(tokenizer, 2, 1.0)
    with pytest.raises(KeyboardInterrupt):
        sampler.sample(wanted, LIMITS, interrupted)
    counts = []
    drawn = flat(sampler.sample(wanted, LIMITS, counts.append))
    assert sum(counts) == sum(t.length for t in drawn)


def test_weights_of_another_model_are_refused(sampler, model):
    weights = {name.replace("layers", "towers"): weight for name, weight in named_weights(model)}
    with pytest.raises(RunError, match="does not take the learner's weights"):
        sampler.load(weights, version=3)
