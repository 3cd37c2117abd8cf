"""What vLLM is asked for and what is made of its answers, without a vLLM."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from builders import tiny_llama
from small_tokenizers import EOS, byte_tokenizer
from superrl.errors import Diverged, RunError, UserError
from superrl.learner.copies import named_weights
from superrl.sampling.asked import Answer, asked, seed_of, trajectories
from superrl.sampling.protocol import Prompt, SamplingLimits
from superrl.sampling.serve import command, main, split
from superrl.sampling.shell import WEIGHTS, write_shell, write_weights
from superrl.truncation import Truncation

TOKENIZER = byte_tokenizer()
HELLO = tuple(TOKENIZER("hello", add_special_tokens=False)["input_ids"])
LIMITS = SamplingLimits(8, stop=("\n\n",))


def test_every_completion_is_asked_for_by_itself_with_its_own_seed():
    prompts = [Prompt(HELLO, 2, (0, 1)), Prompt(HELLO, 1, (0, 2), temperature=0.0), Prompt(HELLO, 1, (0, 1), drawn=3)]
    wanted = asked(prompts, LIMITS, 100)
    assert [one.budget for one in wanted] == [8, 8, 8, 5]
    assert len({one.seed for one in wanted[:3]}) == 3 and wanted[3].seed == wanted[0].seed
    assert wanted[2].fields(LIMITS, {EOS, 7}) == {
        "temperature": 0.0,
        "seed": wanted[2].seed,
        "max_tokens": 8,
        "logprobs": 0,
        "stop": ["\n\n"],
        "stop_token_ids": sorted({EOS, 7}),
        "ignore_eos": True,
    }
    cut = wanted[0].fields(replace(LIMITS, truncation=Truncation(top_p=0.9)), [EOS])
    assert cut["top_p"] == 0.9 and not {"top_k", "min_p"} & set(cut)


@given(st.lists(st.tuples(st.tuples(st.integers(0, 2**63), st.integers(0, 9)), st.integers(0, 9)), unique=True))
def test_seeds_differ_and_fit_into_63_bits(keys):
    seeds = [seed_of(key, sample) for key, sample in keys]
    assert len(set(seeds)) == len(keys) and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("prompt", "limits", "complaint"),
    [
        (Prompt((), 1, (0,)), LIMITS, "has no tokens"),
        (
            Prompt((5,) * 20, 1, (0,)),
            LIMITS,
            "a prompt of 20 tokens leaves no room for a completion in a context of 20",
        ),
        (Prompt(HELLO, 1, (0,)), SamplingLimits(0), "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(prompt, limits, complaint):
    with pytest.raises(UserError, match=complaint):
        asked([prompt], limits, 20)


def test_the_context_bounds_the_budget():
    assert [one.budget for one in asked([Prompt((5,) * 17, 1, (0,))], LIMITS, 20)] == [3]


def test_answers_become_trajectories():
    prompts = [Prompt(HELLO, 2, (0,), temperature=0.5), Prompt(HELLO[:2], 1, (1,), temperature=0.0)]
    answers = [
        Answer([*HELLO[:2], EOS], [-0.5, -1.0, -1.5], "stop", EOS),
        Answer([*HELLO], [-0.25] * len(HELLO), "length", None),
        Answer([*HELLO[:1]], [-2.0], "stop", "h"),
    ]
    (first, second), (third,) = trajectories(prompts, answers, TOKENIZER, 7, {EOS})
    assert first.tokens == (*HELLO, *HELLO[:2], EOS) and first.text == "he"
    assert first.loss_mask == (False,) * 5 + (True,) * 3
    assert first.logp_sampler == (0.0,) * 5 + (-0.5, -1.0, -1.5)
    assert (first.stop, second.stop, third.stop) == ("eos", "length", "stop")
    assert first.entropy == 1.0 and second.entropy == 0.25 and third.entropy is None
    assert {t.version for t in (first, second, third)} == {7} and (first.temperature, third.temperature) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("answer", "error", "complaint"),
    [
        (Answer([5], [float("nan")], "length"), Diverged, "not finite"),
        (Answer([], [], "length"), RunError, "returned 0 tokens with 0 log-probabilities"),
        (Answer([5, 6], [-1.0], "length"), RunError, "returned 2 tokens with 1 log-probabilities"),
        (Answer([5], [-1.0], "abort"), RunError, "ended a completion by 'abort'"),
        (Answer([5], [-1.0], "stop", 5), RunError, "ended a completion by 'stop'"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(answer, error, complaint):
    with pytest.raises(error, match=complaint):
        trajectories([Prompt(HELLO, 1, (0,))], [answer], TOKENIZER, 0, {EOS})


def test_the_folder_for_vllm_has_a_head_of_its_own(tmp_path):
    model = tiny_llama()
    assert model.config.tie_word_embeddings
    write_shell(tmp_path, model, TOKENIZER)
    write_weights(tmp_path, dict(named_weights(model)), torch.bfloat16)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.tie_word_embeddings is False and config.architectures == ["LlamaForCausalLM"]
    assert config.head_dtype == "float32"
    assert model.config.tie_word_embeddings and not hasattr(model.config, "head_dtype")  # the learner's stays as it is
    assert AutoTokenizer.from_pretrained(tmp_path)("hello")["input_ids"] == TOKENIZER("hello")["input_ids"]
    held = load_file(tmp_path / WEIGHTS)
    assert set(held) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    embedding = model.get_input_embeddings().weight.detach().bfloat16()
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(held[name], embedding)


def test_the_server_is_started_with_what_training_needs(tmp_path):
    words = command("some/model", "float32", tmp_path, ["--port", "8123", "--host", "0.0.0.0"])
    assert words[2:5] == ["vllm.entrypoints.openai.api_server", "--model", str(tmp_path)]
    assert words[words.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert words[words.index("--dtype") + 1] == "float32" and words[-1] == "0.0.0.0"


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("M", ""),
        ("M --port 8000", "--port 8000"),
        ("--port 8000 M", "--port 8000"),
        ("--port 8000 M --enforce-eager", "--port 8000 --enforce-eager"),
        ("--port=8000 M -tp 2", "--port=8000 -tp 2"),
        ("--port 8000 --enforce-eager M", "--port 8000 --enforce-eager"),
        ("M --served-model-name a b", "--served-model-name a b"),
    ],
)
def test_the_model_may_stand_anywhere(line, rest):
    assert split(line.split()) == ("M", rest.split())


@pytest.mark.parametrize("line", ["", "--enforce-eager", "--port=8000", "--dtype float32"])
def test_a_line_without_a_model_is_refused_with_a_sentence(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2 and "MODEL is missing" in capsys.readouterr().err


def test_help_needs_no_model(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "MODEL [--dtype {float32,bfloat16}]" in capsys.readouterr().out
