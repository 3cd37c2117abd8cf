"""What a sampler promises: the model's own distribution, one draw a (key, sample, position), and the right endings."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from tiny_models import FAMILIES, TOKENIZER, VOCABULARY, build_model, make_sampler
from transformers import PreTrainedModel

from small_tokenizers import EOS
from superrl.errors import RunError, UserError
from superrl.records import Trajectory
from superrl.sampling.draw import uniforms
from superrl.sampling.local import LocalSampler
from superrl.sampling.protocol import Prompt, SamplingLimits


def some_prompts(count: int, n: int, *, temperature: float = 1.0, longest: int = 40) -> list[Prompt]:
    generator = torch.Generator().manual_seed(11)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    lengths = [1, longest, *(number(2, longest) for _ in range(count))][:count]
    return [
        Prompt(tuple(number(0, VOCABULARY) for _ in range(length)), n, (5, i), temperature)
        for i, length in enumerate(lengths)
    ]


def flat(groups: list[list[Trajectory]]) -> list[Trajectory]:
    return [trajectory for group in groups for trajectory in group]


@torch.no_grad()
def full_logits(model: PreTrainedModel, tokens: tuple[int, ...]) -> torch.Tensor:
    """The slow oracle: one forward pass over the sequence, no cache, the model's own attention."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


def completion(trajectory: Trajectory) -> tuple[int, ...]:
    return trajectory.tokens[len(trajectory.tokens) - trajectory.length :]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("deterministic", [True, False])
def test_draws_are_those_of_a_full_forward_with_the_same_uniforms(family: str, deterministic: bool) -> None:
    model = build_model(family)
    sampler = make_sampler(model, deterministic=deterministic, slots=16)
    prompts = some_prompts(7, 3, temperature=0.8)
    groups = sampler.sample(prompts, SamplingLimits(max_new_tokens=30))
    for prompt, group in zip(prompts, groups, strict=True):
        for sample, trajectory in enumerate(group):
            assert trajectory.tokens[: len(prompt.tokens)] == prompt.tokens
            logits = full_logits(model, trajectory.tokens)[len(prompt.tokens) - 1 : -1] / 0.8
            probability = logits.double().softmax(-1)
            number = torch.from_numpy(uniforms(prompt.key, sample, len(logits)))
            drawn = torch.tensor(completion(trajectory))
            above = probability.cumsum(-1).gather(-1, drawn[:, None])[:, 0]
            below = above - probability.gather(-1, drawn[:, None])[:, 0]
            assert ((below - 1e-6 <= number) & (number <= above + 1e-6)).all()
            logp = logits.log_softmax(-1).gather(-1, drawn[:, None])[:, 0]
            given = torch.tensor(trajectory.logp_sampler[len(prompt.tokens) :])
            torch.testing.assert_close(given, logp, rtol=0, atol=2e-5)
            entropy = -(probability * probability.log()).sum(-1).mean()
            assert trajectory.entropy == pytest.approx(float(entropy), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_generate(family: str) -> None:
    model = build_model(family)
    prompts = some_prompts(4, 1, temperature=0.0)
    for prompt, (trajectory,) in zip(
        prompts, make_sampler(model, eos_ids=[]).sample(prompts, SamplingLimits(24)), strict=True
    ):
        ids = torch.tensor([prompt.tokens])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, pad_token_id=0
        )
        assert list(trajectory.tokens) == expected[0].tolist()
        logp = full_logits(model, trajectory.tokens)[len(prompt.tokens) - 1 : -1].log_softmax(-1).max(-1).values
        torch.testing.assert_close(torch.tensor(trajectory.logp_sampler[len(prompt.tokens) :]), logp, rtol=0, atol=2e-5)


@pytest.mark.usefixtures("either_kernels")
def test_bfloat16_log_probs_match_a_full_forward_to_rounding() -> None:
    model = build_model("llama")
    sampler = make_sampler(model, deterministic=False, compute_dtype=torch.bfloat16)
    trajectories = flat(sampler.sample(some_prompts(4, 4, longest=90), SamplingLimits(30)))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    gaps = []
    for trajectory in trajectories:
        logp = full_logits(model, trajectory.tokens)[:-1].log_softmax(-1)
        gap = (
            torch.tensor(trajectory.logp_sampler[1:])
            - logp.gather(-1, torch.tensor(trajectory.tokens[1:])[:, None])[:, 0]
        )
        gaps.append(gap[torch.tensor(trajectory.loss_mask[1:])].abs())
    assert torch.cat(gaps).mean() < 0.03


def test_a_cast_leaves_rotary_frequencies_exact() -> None:
    model = build_model("llama")
    LocalSampler(model, TOKENIZER, eos_ids=[EOS], deterministic=False, compute_dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


def test_same_key_same_draw_another_key_another() -> None:
    sampler = make_sampler(build_model("llama"))
    tokens = (1, 2, 3)
    one, again, other, different = sampler.sample(
        [Prompt(tokens, 2, (0, 1)), Prompt(tokens, 2, (0, 1)), Prompt(tokens, 2, (0, 2)), Prompt((1, 2, 4), 2, (0, 1))],
        SamplingLimits(12),
    )
    assert one == again
    assert len({t.tokens for t in (*one, *other)}) == 4
    assert [completion(t) for t in one] != [completion(t) for t in different]


def test_first_tokens_follow_the_softmax() -> None:
    model = build_model("llama")
    tokens, draws, temperature = (5, 6, 7), 2000, 0.7
    sampler = make_sampler(model, slots=256)
    (group,) = sampler.sample([Prompt(tokens, draws, (1,), temperature)], SamplingLimits(1))
    counts = torch.bincount(torch.tensor([completion(t)[0] for t in group]), minlength=VOCABULARY).double()
    expected = (full_logits(model, tokens)[-1] / temperature).double().softmax(-1) * draws
    common = expected > 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    freedom = len(wanted) - 1
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    assert freedom > 10
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_a_trajectory_says_what_was_drawn() -> None:
    sampler = make_sampler(build_model("llama"))
    heard: list[int] = []
    prompts = some_prompts(3, 5, temperature=0.9)
    groups = sampler.sample(prompts, SamplingLimits(9), on_tokens=heard.append)
    assert [len(group) for group in groups] == [5, 5, 5]
    assert sum(heard) == sum(trajectory.length for trajectory in flat(groups))
    for prompt, group in zip(prompts, groups, strict=True):
        for trajectory in group:
            size = len(prompt.tokens)
            assert trajectory.loss_mask == (False,) * size + (True,) * trajectory.length
            assert trajectory.logp_sampler[:size] == (0.0,) * size
            assert all(logp < 0 for logp in trajectory.logp_sampler[size:])
            assert (trajectory.origin, trajectory.version, trajectory.temperature) == ("policy", 0, 0.9)
            assert trajectory.text == TOKENIZER.decode(completion(trajectory), skip_special_tokens=True)


def test_nothing_asked_nothing_drawn() -> None:
    sampler = make_sampler(build_model("llama"))
    assert sampler.sample([], SamplingLimits(4)) == []
    assert sampler.sample([Prompt((1,), 0, (0,))], SamplingLimits(4)) == [[]]


# --- endings


def clean_text(trajectory: Trajectory, size: int) -> str:
    """The first `size` adjacent tokens, after a few others, that decode to whole characters."""
    tokens = completion(trajectory)
    texts = (TOKENIZER.decode(tokens[i : i + size]) for i in range(4, len(tokens) - size))
    return next(text for text in texts if len(text) >= size and "\ufffd" not in text)


def test_eos_ends_and_is_kept() -> None:
    model = build_model("llama")
    prompts = some_prompts(3, 8)
    free = flat(make_sampler(model, eos_ids=[]).sample(prompts, SamplingLimits(20)))
    eos = completion(free[0])[7]
    ended = flat(make_sampler(model, eos_ids=[EOS, eos]).sample(prompts, SamplingLimits(20)))
    for long, short in zip(free, ended, strict=True):
        tokens = completion(long)
        stops = [i for i, token in enumerate(tokens) if token in (eos, EOS)]
        assert completion(short) == (tokens[: stops[0] + 1] if stops else tokens)
        assert short.stop == ("eos" if stops else "length")
    assert ended[0].stop == "eos" and {t.stop for t in ended} == {"eos", "length"}


@pytest.mark.parametrize("deterministic", [True, False])
def test_stop_strings_end_at_the_token_that_completes_them(deterministic: bool) -> None:
    model = build_model("llama")
    prompts = some_prompts(6, 8)
    free = flat(make_sampler(model).sample(prompts, SamplingLimits(30)))
    spanning, single = clean_text(free[0], 3), clean_text(free[20], 1)
    limits = SamplingLimits(30, stop=(spanning, single))
    stopped = flat(make_sampler(model, deterministic=deterministic).sample(prompts, limits))
    for long, short in zip(free, stopped, strict=True):
        tokens = completion(long)
        texts = [TOKENIZER.decode(tokens[: i + 1], skip_special_tokens=True) for i in range(len(tokens))]
        hits = [i for i, text in enumerate(texts) if spanning in text or single in text]
        end = hits[0] if hits else len(tokens) - 1
        assert completion(short) == tokens[: end + 1]
        assert short.text == texts[end]
        assert short.stop == ("stop" if hits else long.stop)
    assert stopped[0].stop == "stop" and stopped[0].text.endswith(spanning)
    assert stopped[20].stop == "stop" and stopped[20].text.endswith(single)


def test_the_context_ends_a_completion() -> None:
    sampler = make_sampler(build_model("gpt2"), max_length=20, eos_ids=[])
    ((short,), (long,)) = sampler.sample(
        [Prompt(tuple(range(5)), 1, (0,)), Prompt(tuple(range(18)), 1, (0,))], SamplingLimits(10)
    )
    assert (len(short.tokens), short.stop) == (15, "length")
    assert (len(long.tokens), long.stop) == (20, "length")


def test_a_whole_context_of_absolute_positions_is_usable() -> None:
    sampler = make_sampler(build_model("gpt2"), eos_ids=[])
    ((trajectory,),) = sampler.sample([Prompt(tuple(range(196)), 1, (0,))], SamplingLimits(100))
    assert len(trajectory.tokens) == 200


# --- weights


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_load_takes_over_the_weights_tied_or_not(family: str) -> None:
    old, new = build_model(family), build_model(family)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    tied = family == "llama"
    assert ("lm_head.weight" in dict(new.named_parameters())) is not tied
    prompts, limits = some_prompts(3, 3), SamplingLimits(12)
    expected = make_sampler(new).sample(prompts, limits)
    names = [dict(new.named_parameters())] + ([dict(new.state_dict())] if tied else [])
    for weights in names:
        sampler = make_sampler(old)
        before = sampler.sample(prompts, limits)
        sampler.load(weights, version=4)
        after = sampler.sample(prompts, limits)
        assert [t.tokens for t in flat(after)] == [t.tokens for t in flat(expected)]
        assert [t.logp_sampler for t in flat(after)] == [t.logp_sampler for t in flat(expected)]
        assert flat(after)[0].version == 4
        assert [t.tokens for t in flat(before)] != [t.tokens for t in flat(after)]
    assert not any(torch.equal(a, b) for a, b in pairwise([old.get_input_embeddings().weight, *new.parameters()][:2]))


@pytest.mark.usefixtures("either_kernels")
@pytest.mark.parametrize("deterministic", [True, False])
def test_who_slept_draws_as_before_once_weights_are_loaded(deterministic: bool) -> None:
    model = build_model("llama")
    sampler = make_sampler(model, compute_dtype=torch.bfloat16, deterministic=deterministic)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    sampler.load(weights, version=0)
    before = sampler.sample(some_prompts(2, 2), SamplingLimits(8))
    sampler.sleep()
    assert not sampler._cache._memory and not sampler._prefixes.cache._memory
    if sampler._lean is not None:
        assert all(matrix._weight is matrix.layers[0].weight for matrix in sampler._lean._matrices)
        with pytest.raises(AssertionError, match="woken by `load`"):
            sampler.sample(some_prompts(1, 1), SamplingLimits(1))
    sampler.load(weights, version=0)
    assert sampler.sample(some_prompts(2, 2), SamplingLimits(8)) == before


@pytest.mark.usefixtures("either_kernels")
def test_load_casts_float32_masters() -> None:
    model = build_model("llama")
    sampler = make_sampler(model, compute_dtype=torch.bfloat16, deterministic=False)
    prompts = some_prompts(2, 2)
    before = sampler.sample(prompts, SamplingLimits(8))
    sampler.load(dict(model.named_parameters()), version=0)
    assert sampler.sample(prompts, SamplingLimits(8)) == before


def test_load_refuses_other_names_and_shapes_and_changes_nothing() -> None:
    model = build_model("llama")
    sampler = make_sampler(model)
    before = sampler.sample(some_prompts(2, 2), SamplingLimits(6))
    zeros = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    with pytest.raises(RunError, match=r"1 weights the sampler does not have, first: 'more'"):
        sampler.load({**zeros, "more": torch.zeros(1)}, 1)
    with pytest.raises(RunError, match=r"left out 1 of the sampler's weights, first: 'model.norm.weight'"):
        sampler.load({name: value for name, value in zeros.items() if name != "model.norm.weight"}, 1)
    with pytest.raises(RunError, match=r"'model.norm.weight' has shape \[1\], the sampler's \[64\]"):
        sampler.load({**zeros, "model.norm.weight": torch.zeros(1)}, 1)
    different = {**zeros, "lm_head.weight": torch.ones_like(zeros["model.embed_tokens.weight"])}
    with pytest.raises(RunError, match=r"'lm_head.weight' and 'model.embed_tokens.weight' are one weight"):
        sampler.load(different, 1)
    assert sampler.sample(some_prompts(2, 2), SamplingLimits(6)) == before


def test_weights_that_are_not_finite_stop_the_run_and_leave_no_trace() -> None:
    model = build_model("llama")
    sampler = make_sampler(model)
    before = sampler.sample(some_prompts(2, 2, longest=10), SamplingLimits(6))
    broken = {name: torch.full_like(value, torch.nan) for name, value in model.named_parameters()}
    sampler.load(broken, 1)
    with pytest.raises(RunError, match="not finite"):
        sampler.sample(some_prompts(2, 2, longest=90), SamplingLimits(6))
    sampler.load(dict(model.named_parameters()), 0)
    assert sampler.sample(some_prompts(2, 2, longest=10), SamplingLimits(6)) == before


# --- what cannot be served


def test_errors_say_what_is_wrong() -> None:
    sampler = make_sampler(build_model("llama"), max_length=20)
    with pytest.raises(UserError, match=r"prompt of 20 tokens leaves no room .* context of 20"):
        sampler.sample([Prompt(tuple(range(20)), 1, (0,))], SamplingLimits(5))
    with pytest.raises(UserError, match="no tokens"):
        sampler.sample([Prompt((), 1, (0,))], SamplingLimits(5))
    with pytest.raises(UserError, match="max_new_tokens must be at least 1, got 0"):
        sampler.sample([Prompt((1,), 1, (0,))], SamplingLimits(0))
    with pytest.raises(UserError, match="empty stop string"):
        sampler.sample([Prompt((1,), 1, (0,))], SamplingLimits(5, stop=("",)))
    with pytest.raises(UserError, match="at least one slot, got 0"):
        make_sampler(build_model("llama"), slots=0)


def test_layers_without_keys_and_values_are_refused() -> None:
    model = copy.deepcopy(build_model("qwen3"))
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(UserError, match="Qwen3ForCausalLM has layers of type 'linear_attention'"):
        make_sampler(model)
