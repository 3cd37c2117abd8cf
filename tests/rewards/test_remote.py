"""Similarities by another model: a judge and vectors behind a real local server, and a small local encoder."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chat_server import Answer, Asked, chat, serving
from small_runs import small_model
from superrl import rewards
from superrl.errors import RunError, UserError
from superrl.records import Problem
from superrl.rewards import remote
from superrl.rewards.remote import Embedding, likeness, opinion, question, scorer

PARTS = re.compile(r"<expert>\n(.*)\n</expert>\n\n<student>\n(.*)\n</student>", re.DOTALL)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settings(url: str, **more) -> dict:
    return {"endpoint": url, "model": "m", "key_env": "NO_SUCH_KEY", "pause": 0.01, "retries": 1, **more}


def strict(asked: Asked) -> Answer:
    """1 where the first words agree, else 0.25."""
    expert, student = PARTS.search(asked.last).groups()
    return chat("1" if expert.split()[0] == student.split()[0] else " 0.25\n")


def test_a_judge_s_number_is_the_score_and_is_asked_for_once(cache):
    triples = [("q", "add 2", "add two"), ("q", "sub 2", "add two"), ("q", "add 2", "add two")]
    with serving(strict) as server:
        judge = scorer("judge", settings(server.url))
        assert judge(triples) == [1.0, 0.25, 1.0]
        assert len(server.asked) == 2 and server.asked[0].body["temperature"] == 0.0
        assert scorer("judge", settings(server.url))(triples) == [1.0, 0.25, 1.0], "from disk, by a new run"
        assert len(server.asked) == 2
    assert len(list(cache.glob("answers/judge-*.jsonl"))) == 1


def test_a_judge_sees_the_task_both_steps_and_which_is_which():
    system, user = question("the task", "the student's", "the expert's")
    assert system["role"] == "system" and "one number between 0 and 1" in system["content"]
    assert user["content"].index("the task") < user["content"].index("<expert>\nthe expert's")
    assert "<student>\nthe student's" in user["content"]


@pytest.mark.parametrize("kind", ["judge", "embedding"])
def test_equal_and_empty_texts_need_no_model(kind):
    made = scorer(kind, settings("http://127.0.0.1:9/v1"))
    assert made([("q", "x = 2", " x  =\n2"), ("q", "", "x"), ("q", "x", " "), ("q", "", "")]) == [1.0, 0.0, 0.0, 1.0]
    assert made([]) == [] and made.unread == 0


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("0", 0.0), ("1", 1.0), ("0.75", 0.75), (".5", 0.5), ("1.0.", 1.0), ("**0.9**", 0.9), ("Score: 0.3", 0.3),
        ("", None), ("1.5", None), ("-0.5", None), ("0.5 or 0.6", None), ("0.5, for it is right", None), ("10", None),
        ("2", None), ("nan", None), ("1e-1", None), ("１", None),
    ],
)  # fmt: skip
def test_a_reply_is_one_number_or_none_at_all(reply, value):
    assert opinion(reply) == value


@given(st.text())
def test_no_reply_raises_and_what_is_read_is_a_share(reply):
    value = opinion(reply)
    assert value is None or 0.0 <= value <= 1.0


def test_a_reply_without_a_number_and_a_refusal_are_worth_nothing_and_counted():
    def some(asked: Asked) -> Answer:
        student = PARTS.search(asked.last).group(2)
        if student == "long":
            return Answer("too long", 400)
        return chat("It depends." if student == "odd" else "1")

    with serving(some) as server:
        judge = scorer("judge", settings(server.url))
        assert judge([("q", text, "e") for text in ("odd", "long", "fine")]) == [0.0, 0.0, 1.0]
    assert judge.unread == 2


def test_a_judge_may_think_first():
    with serving(lambda asked: chat("<think>1? No.</think>\n\n0.25")) as server:
        assert scorer("judge", settings(server.url))([("q", "a", "b")]) == [0.25]


def test_a_model_that_is_no_judge_is_one_sentence():
    with serving(lambda asked: chat("Both are good steps!")) as server:
        judge = scorer("judge", settings(server.url))
        with pytest.raises(UserError, match=r"gives no number for 9 of 9 pairs \(it said 'Both are good steps!'"):
            judge([("q", str(i), "e") for i in range(9)])


@pytest.mark.parametrize("kind", ["judge", "embedding"])
def test_an_endpoint_that_fails_after_its_retries_ends_the_run(kind):
    with serving(lambda asked: Answer("", 500)) as server:
        with pytest.raises(RunError, match="failed 2 times in a row"):
            scorer(kind, settings(server.url))([("q", "a", "b")])
        assert len(server.asked) == 2


def test_text_that_utf_8_cannot_carry_is_sent_without_it():
    with serving(lambda asked: chat("0.5" if "<student>\na?b\x00\n" in asked.last else "0")) as server:
        assert scorer("judge", settings(server.url))([("q", "a\ud800b\x00", "e")]) == [0.5]


def letters(asked: Asked) -> Answer:
    """A vector of counts: of `a`, `b`, and, with a sign, of `n`."""
    if any("refuse" in text for text in asked.body["input"]):
        return Answer({"error": "no"}, 400)
    rows = [[text.count("a") - text.count("n"), text.count("b")] for text in asked.body["input"]]
    return Answer({"data": [{"index": i, "embedding": row} for i, row in enumerate(rows)]})


def test_vectors_give_half_of_one_and_the_cosine():
    with serving(letters) as server:
        made = scorer("embedding", settings(server.url))
        assert made([("q", "a", "aa"), ("q", "b", "a"), ("q", "n", "a"), ("q", "ab", "a")]) == [
            1.0, 0.5, 0.0, pytest.approx((1 + math.sqrt(0.5)) / 2, abs=1e-6),
        ]  # fmt: skip
        assert len(server.asked) == 1 and sorted(server.asked[0].body["input"]) == ["a", "aa", "ab", "b", "n"]
        made([("q", "bb", "a")])
        assert server.asked[1].body["input"] == ["bb"], "the expert's vector is known"


def test_many_texts_go_in_batches_and_one_bad_text_spoils_no_other(monkeypatch):
    monkeypatch.setattr(remote, "TEXTS", 4)
    with serving(letters) as server:
        made = scorer("embedding", settings(server.url, concurrency=1))
        texts = [*(f"{'a' * n}." for n in range(1, 6)), "refuse me", "b"]
        assert made([("q", text, "a") for text in texts]) == [1.0] * 5 + [0.0, 0.5]
    assert [len(asked.body["input"]) for asked in server.asked] == [4, 4, 1, 1, 1, 1]
    assert made.unread == 1


def test_a_text_without_direction_is_unread():
    with serving(letters) as server:
        made = scorer("embedding", settings(server.url))
        assert made([("q", "xyz", "a"), ("q", "a", "b")]) == [0.0, 0.5]
    assert made.unread == 1


def test_an_endpoint_that_gives_other_vectors_than_asked_for():
    one = Answer({"data": [{"index": 0, "embedding": [1.0]}]})
    with serving(lambda asked: one) as server, pytest.raises(UserError, match="gives 1 vectors for 2 texts"):
        scorer("embedding", settings(server.url))([("q", "a", "b")])


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(remote, "REMEMBERED", 3)
    asked: list[str] = []

    def vectors(texts):
        asked.extend(texts)
        return [np.array([1.0, len(text)]) for text in texts]

    made = Embedding(vectors)
    for n in range(1, 6):
        made([("q", "x", "e" * n)])
    assert len(made._known) == 3
    asked.clear()
    made([("q", "y", "e" * 5), ("q", "y", "e")])
    assert asked == ["y", "e"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_likeness_is_symmetric_and_a_share(a, b):
    one, two = likeness(np.array(a), np.array(b)), likeness(np.array(b), np.array(a))
    assert one == two and (one is None or 0.0 <= one <= 1.0)
    assert likeness(np.array([math.nan]), np.array([1.0])) is None


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("encoder"))


def test_a_local_encoder_s_vector_is_the_mean_of_its_last_states(encoder):
    from transformers import AutoModel, AutoTokenizer

    made = scorer("embedding", {"model": str(encoder), "device": "cpu"})
    found = made([("q", "2+2=4", "2+3=5 and so on"), ("q", "1", "2+3=5 and so on")])
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()

    def mean(text: str) -> np.ndarray:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            return model(input_ids=ids).last_hidden_state[0].mean(0).double().numpy()

    expert = mean("2+3=5 and so on")
    assert found == pytest.approx([likeness(mean("2+2=4"), expert), likeness(mean("1"), expert)], abs=2e-6)
    assert found[0] != found[1] and 0.0 < found[1] < 1.0


def test_a_local_encoder_s_numbers_depend_on_no_batch_and_long_texts_are_cut(encoder):
    texts = ["1", "2+2", "3" * 500, "4\n5" * 20, "\ud800"]
    triples = [("q", text, "12") for text in texts]
    made = scorer("embedding", {"model": str(encoder), "device": "cpu"})
    together = made(triples)
    assert together == [scorer("embedding", {"model": str(encoder), "device": "cpu"})([one])[0] for one in triples]
    assert all(0.0 <= value <= 1.0 for value in together)


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("judge", {"model": "m"}, "a judge needs an `endpoint`"),
        ("judge", {}, "'model' is missing"),
        ("judge", {"model": "m", "endpoint": "localhost"}, "is no URL"),
        ("judge", {"model": "m", "endpont": "x"}, "did you mean 'endpoint'?"),
        ("embedding", {"model": "m", "concurrency": 0}, "concurrency"),
        ("embedding", {"model": "/nowhere/at/all"}, "is no Hugging Face model folder"),
    ],
)
def test_wrong_options_are_one_sentence(kind, options, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        scorer(kind, options)
    assert str(caught.value).count("\n") == 0


def test_a_folder_without_weights_does_not_load(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="does not load as a text encoder"):
        scorer("embedding", {"model": str(tmp_path)})([("q", "a", "b")])


@pytest.mark.parametrize("kind", ["judge", "embedding"])
def test_the_reward_of_steps_asks_only_about_what_passes_its_gate(kind):
    def answer(asked: Asked) -> Answer:
        return strict(asked) if asked.path.endswith("completions") else letters(asked)

    one = Problem("p", ({"role": "user", "content": "q"},), "a b", meta={"think": "none"})
    with serving(answer) as server:
        reward = rewards.build({"name": "step_similarity", "kind": kind, "remote": settings(server.url)})
        found = reward.score([one] * 3, ["a b", "b", ""])
    assert [score.value for score in found] == [1.0, 0.25 if kind == "judge" else pytest.approx(0.853553), -1.0]
    assert found[2].parts["format"] == 0.0 and len(server.asked) == 1
    assert reward.fingerprint is None, "what answers behind an address may change"
