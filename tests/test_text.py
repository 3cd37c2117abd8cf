"""Contexts and demonstrations are made of token ids, once, and read back as the text they were."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tokenizers import BOS, BOS_AND_TURNS, CHATML, EOS, TURN, TURN_END, byte_tokenizer
from superrl import text
from superrl.config import PromptConfig
from superrl.errors import UserError
from superrl.records import Demonstration, Problem
from superrl.text import Endings, Renderer, eos_ids

PLAIN = byte_tokenizer()
CHAT = byte_tokenizer(chat=CHATML)
WITH_BOS = byte_tokenizer(bos=True, eos_after=True)
BOS_CHAT = byte_tokenizer(chat=BOS_AND_TURNS, bos=True)
TOKENIZERS = [PLAIN, CHAT, WITH_BOS, BOS_CHAT]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda t: "<" not in t)


def problem(*contents: str, roles: tuple[str, ...] = ("user",)) -> Problem:
    return Problem("p", tuple({"role": role, "content": text} for role, text in zip(roles, contents, strict=True)))


def renderer(tokenizer=PLAIN, **prompt) -> Renderer:
    settings = PromptConfig(**prompt)
    return Renderer(tokenizer, settings, eos_ids(tokenizer, (), settings).final)


def test_a_plain_context_by_hand():
    made = renderer(template="Q: {prompt}\nA:").context(problem("7+1"))
    assert PLAIN.decode(made) == "Q: 7+1\nA:"
    assert len(made) == len("Q: 7+1\nA:")


def test_a_chat_context_is_the_template_s_with_the_generation_prompt():
    made = renderer(CHAT, system="Be brief.").context(problem("7+1"))
    assert CHAT.decode(made) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n7+1<|im_end|>\n<|im_start|>assistant\n"
    )
    assert made.count(TURN) == 3 and made.count(TURN_END) == 2


def test_chat_never_uses_no_template_and_always_demands_one():
    assert CHAT.decode(renderer(CHAT, chat="never").context(problem("7+1"))) == "7+1"
    assert renderer(CHAT, chat="always").context(problem("x")) == renderer(CHAT).context(problem("x"))
    with pytest.raises(UserError, match="needs a tokenizer with a chat template"):
        Renderer(PLAIN, PromptConfig(chat="always"), EOS)


def test_messages_without_a_template_are_joined_by_an_empty_line():
    several = problem("S", "a", "b", "c", roles=("system", "user", "assistant", "user"))
    assert PLAIN.decode(renderer(template="<{prompt}>").context(several)) == "S\n\na\n\nb\n\n<c>"


def test_the_template_goes_around_the_last_user_message_only():
    several = problem("a", "b", "c", "d", roles=("user", "assistant", "user", "tool"))
    contents = [message["content"] for message in renderer(template="<{prompt}>").messages(several)]
    assert contents == ["a", "b", "<c>", "d"]


def test_the_recipe_s_system_message_replaces_the_row_s():
    messages = renderer(system="new").messages(problem("old", "q", roles=("system", "user")))
    assert [(m["role"], m["content"]) for m in messages] == [("system", "new"), ("user", "q")]


@given(texts)
def test_braces_in_the_data_mean_nothing(text):
    odd = "{0} {x!r} {prompt} {{}}" + text
    (message,) = renderer(template="{prompt}: {answer} {}").messages(problem(odd))
    assert message["content"] == odd + ": {answer} {}"


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(question=texts.filter(str.strip), solution=texts)
def test_a_demonstration_is_context_then_solution_then_eos(tokenizer, question, solution):
    render = renderer(tokenizer)
    made = render.demonstration(problem(question), Demonstration(solution))
    context = render.context(problem(question))
    assert made.tokens[: len(context)] == context
    assert made.tokens[-1] == render.eos_id
    assert made.loss_mask == (False,) * len(context) + (True,) * (len(made.tokens) - len(context))
    assert render.decode(made.tokens[len(context) :]) == solution == made.text
    assert set(made.logp_sampler) == {0.0}
    assert (made.origin, made.stop, made.temperature, made.length) == ("expert", "eos", 1.0, made.length)


@given(questions=st.lists(texts.filter(str.strip), min_size=1, max_size=4))
def test_many_contexts_are_the_contexts_one_by_one(questions):
    problems = [problem(question) for question in questions]
    for tokenizer in TOKENIZERS:
        render = renderer(tokenizer)
        assert render.contexts(problems) == [render.context(one) for one in problems]


def test_joined_text_is_never_tokenised_again():
    """`a` + `b` would become the merged piece `ab`, which the sampler could not have drawn after the context `a`."""
    made = renderer().demonstration(problem("a"), Demonstration("b"))
    assert made.tokens == (*PLAIN("a")["input_ids"], *PLAIN("b")["input_ids"], EOS)
    assert made.tokens[:2] != tuple(PLAIN("ab")["input_ids"]) and len(PLAIN("ab")["input_ids"]) == 1


def test_given_messages_take_the_place_of_the_problem_s_and_are_rendered_like_them():
    render = renderer(template="<{prompt}>", system="S")
    hinted = problem("q, hint: 4")
    assert PLAIN.decode(render.context(problem("q"), messages=hinted.messages)) == "S\n\n<q, hint: 4>"


@pytest.mark.parametrize("tokenizer", [PLAIN, CHAT])
def test_what_opens_the_turn_ends_the_context_token_by_token(tokenizer):
    render = renderer(tokenizer)
    bare = problem("2+2?")
    opened = replace(bare, opening="<think>\n")
    (opening,) = render.encode(["<think>\n"])
    assert render.context(opened) == render.context(bare) + opening != render.context(bare)
    assert render.contexts([bare, opened]) == [render.context(bare), render.context(opened)]


def test_bos_stands_once_and_eos_not_at_all_before_a_completion():
    plain = renderer(WITH_BOS).context(problem("q"))
    chat = renderer(BOS_CHAT).context(problem("q"))
    assert plain == (BOS, *PLAIN("q")["input_ids"])
    assert chat.count(BOS) == 1 and chat[0] == BOS and EOS not in chat
    assert BOS not in renderer(WITH_BOS).demonstration(problem("q"), Demonstration("b")).tokens[len(plain) :]


def test_text_that_brings_its_own_eos_gets_no_second_one():
    made = renderer(CHAT).demonstration(problem("q"), Demonstration("yes<|im_end|>"))
    assert made.tokens[-2:] == (*CHAT("s")["input_ids"], TURN_END)
    assert renderer(CHAT).decode(made.tokens[-4:]) == "yes"


def test_a_template_that_refuses_the_system_role_is_the_user_s_to_mend():
    with pytest.raises(UserError, match=r"refuses problem 'p' with the roles system, user \(no system role\)"):
        renderer(BOS_CHAT, system="S").context(problem("q"))


def test_a_context_needs_a_token():
    with pytest.raises(UserError, match="'p' renders to no token"):
        renderer().context(problem(""))
    assert renderer(WITH_BOS).context(problem("")) == (BOS,)


def test_what_ends_a_completion_by_hand():
    auto, never = PromptConfig(), PromptConfig(chat="never")
    assert eos_ids(PLAIN, (None,), auto) == Endings((EOS,), EOS)
    assert eos_ids(PLAIN, (9, [8, EOS], None), auto) == Endings((EOS, 9, 8), EOS)
    assert eos_ids(CHAT, (EOS,), auto) == Endings((TURN_END, EOS), TURN_END)
    assert eos_ids(CHAT, (EOS,), never) == Endings((EOS,), EOS)
    assert eos_ids(BOS_CHAT, (), auto) == Endings((EOS,), EOS)


def test_a_template_that_ends_turns_with_a_plain_token_leaves_the_tokenizer_s_eos():
    tokenizer = byte_tokenizer(chat="{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    assert eos_ids(tokenizer, (), PromptConfig()) == Endings((EOS,), EOS)
    next_turn = byte_tokenizer(chat="{% for m in messages %}{{ m['content'] }}\n<s>{% endfor %}")
    assert eos_ids(next_turn, (), PromptConfig()) == Endings((EOS,), EOS)
    other = byte_tokenizer(chat="{% for m in messages %}{{ m['content'] }}~{% endfor %}")
    tilde = other.convert_tokens_to_ids("~")
    assert eos_ids(other, ([tilde],), PromptConfig()) == Endings((tilde, EOS), tilde)


def test_no_end_at_all_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    assert eos_ids(tokenizer, (7,), PromptConfig()) == Endings((7,), 7)
    with pytest.raises(UserError, match="end-of-sequence"):
        eos_ids(tokenizer, (None,), PromptConfig())


def test_thousands_of_texts_are_encoded_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CHUNK", 2)
    render, texts = renderer(), ["a", "bc", "", "ghi", "a\U0001f600"]
    found = render.encode(texts)
    assert found == [render.encode([one])[0] for one in texts]
