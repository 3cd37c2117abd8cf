"""The client of an OpenAI-compatible endpoint against a real server on this machine."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from email.utils import formatdate
from itertools import pairwise

import pytest

from chat_server import Answer, Asked, chat, serving
from superrl.endpoint import Answers, Chat, Client, Refused, endpoint
from superrl.errors import RunError, UserError

QUICK = {"pause": 0.01, "timeout": 5.0}


def ask(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def echo(asked: Asked) -> Answer:
    return chat(asked.last.upper())


def client(url: str, answers: Answers | None = None, **settings) -> Client:
    return Client(endpoint(url, "m", key_env="NO_SUCH_KEY", **(QUICK | settings)), answers)


def texts(replies) -> list[str]:
    return [reply.text for reply in replies]


def test_replies_come_in_order_whatever_order_they_arrive_in():
    def late_first(asked: Asked) -> Answer:
        time.sleep(0.15 if asked.last == "a" else 0.0)
        return echo(asked)

    with serving(late_first) as server:
        heard: list[int] = []
        replies = client(server.url).chat(ask("a", "b", "c"), heard.append, temperature=0.5)
    assert texts(replies) == ["A", "B", "C"]
    assert replies[0] == Chat("A", "stop", 7, 3)
    assert sum(heard) == 3
    assert server.asked[0].path == "/v1/chat/completions"
    assert server.asked[0].body["model"] == "m" and server.asked[0].body["temperature"] == 0.5


@pytest.mark.parametrize("bound", [1, 3])
def test_no_more_requests_are_under_way_than_are_allowed_and_as_many(bound):
    together = threading.Barrier(bound)

    def slow(asked: Asked) -> Answer:
        together.wait(timeout=30)
        time.sleep(0.02)
        return echo(asked)

    with serving(slow) as server:
        client(server.url, concurrency=bound, timeout=60.0).chat(ask(*map(str, range(9))))
    assert server.most_at_once == bound


def test_equal_requests_are_asked_once():
    with serving(echo) as server:
        assert texts(client(server.url).chat(ask("a", "b", "a"))) == ["A", "B", "A"]
    assert len(server.asked) == 2


@pytest.mark.parametrize("trouble", [Answer(status=503), Answer(status=429), Answer(cut=True), Answer(status=500)])
def test_a_passing_trouble_is_asked_again(trouble):
    with serving(lambda asked: trouble if asked.number < 2 else echo(asked)) as server:
        assert texts(client(server.url, retries=2).chat(ask("a"))) == ["A"]
    assert len(server.asked) == 3


def test_pauses_grow_and_are_not_taken_once_the_tries_are_over():
    times: list[float] = []

    def busy(asked: Asked) -> Answer:
        times.append(time.monotonic())
        return Answer({"error": {"message": "overloaded"}}, 503)

    with serving(busy) as server, pytest.raises(RunError, match=r"failed 4 times in a row \(status 503: overloaded\)"):
        client(server.url, retries=3, pause=0.1).chat(ask("a"))
    assert time.monotonic() - times[-1] < 0.4
    gaps = [b - a for a, b in pairwise(times)]
    for gap, whole in zip(gaps, [0.1, 0.2, 0.4], strict=True):
        assert whole / 2 <= gap < whole + 2.0


def test_retry_after_is_waited_for_by_everybody():
    times: dict[str, list[float]] = {"a": [], "b": [], "c": []}

    def limited(asked: Asked) -> Answer:
        times[asked.last].append(time.monotonic())
        if asked.last == "a" and len(times["a"]) == 1:
            return Answer({"error": "slow down"}, 429, {"Retry-After": "0.5"})
        time.sleep(0.1)
        return echo(asked)

    with serving(limited) as server:
        assert texts(client(server.url, concurrency=2).chat(ask("a", "b", "c"))) == ["A", "B", "C"]
    first, again = times["a"]
    assert 0.5 <= again - first < 5.0
    assert times["c"][0] - first >= 0.5, "a request that had not begun waits, too"


def test_a_retry_after_may_be_a_date_and_one_of_an_hour_is_a_failure():
    date = formatdate(time.time() + 3600, usegmt=True)
    with serving(lambda asked: Answer("", 429, {"Retry-After": date})) as server:
        with pytest.raises(RunError, match=r"it wants 3\d\d\d s of rest"):
            client(server.url).chat(ask("a"))
        assert len(server.asked) == 1


def test_a_reply_that_does_not_come_is_given_up_and_asked_again():
    gate = threading.Event()

    def hangs_once(asked: Asked) -> Answer:
        if asked.number == 0:
            gate.wait(10)
        return echo(asked)

    with serving(hangs_once) as server:
        began = time.monotonic()
        assert texts(client(server.url, timeout=1.0).chat(ask("a"))) == ["A"]
        assert time.monotonic() - began < 8.0
        gate.set()


def test_one_request_s_refusal_is_its_own_affair():
    def picky(asked: Asked) -> Answer:
        return Answer({"error": {"message": "too long"}}, 400) if asked.last == "b" else echo(asked)

    with serving(picky) as server:
        first, second, third = client(server.url).chat(ask("a", "b", "c"))
    assert (first.text, second, third.text) == ("A", Refused("400: too long"), "C")


def test_when_all_are_refused_it_is_the_settings_and_few_are_asked():
    with serving(lambda asked: Answer({"detail": "no field temperature"}, 422)) as server:
        with pytest.raises(UserError, match=r"refuses every request \(422: no field temperature\)"):
            client(server.url, concurrency=1).chat(ask(*map(str, range(50))))
        assert len(server.asked) == 8


def test_refusals_after_kept_answers_are_no_fault_of_the_settings(tmp_path):
    """A second run over a thousand answered texts and eight refused ones asks for the eight alone."""
    picky = [str(i) for i in range(9)]

    def refuses(asked: Asked) -> Answer:
        return Answer("", 400) if asked.last in picky else echo(asked)

    with serving(refuses) as server:
        client(server.url, Answers(tmp_path / "kept")).chat(ask("a", *picky))
        replies = client(server.url, Answers(tmp_path / "kept")).chat(ask("a", *picky))
    assert [isinstance(reply, Refused) for reply in replies] == [False] + [True] * 9
    assert len(server.asked) == 10 + 9


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer({"error": {"message": "no key"}}, 401), r"wants a key \(no key\): .* NO_SUCH_KEY is not set"),
        (Answer({"error": {"message": "no such model"}}, 404), r"answers 404 for the model 'm' \(no such model\)"),
        (Answer("", 301, {"Location": "https://example.org/"}), "answers 301"),
        (Answer(b"<html>hello</html>"), "does not speak the OpenAI protocol"),
        (Answer({"choices": []}), "does not speak the OpenAI protocol"),
    ],
)
def test_what_would_meet_every_request_stops_at_once(answer, sentence):
    with serving(lambda asked: answer) as server:
        with pytest.raises(UserError, match=sentence):
            client(server.url, concurrency=1).chat(ask(*map(str, range(20))))
        assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    began = time.monotonic()
    with pytest.raises(UserError, match=r"nothing answers at .*: start the server or mend --endpoint"):
        client(url, pause=30.0).chat(ask("a", "b"))
    assert time.monotonic() - began < 15.0


def test_a_server_that_goes_down_loses_nothing(tmp_path):
    def dies(asked: Asked) -> Answer:
        return echo(asked) if asked.number < 5 else Answer({"error": "gone"}, 502)

    path = tmp_path / "deep" / "kept.jsonl"
    with serving(dies) as server, pytest.raises(RunError, match=r"5 answers so far are kept in .*kept\.jsonl"):
        client(server.url, Answers(path), retries=1, concurrency=2).chat(ask(*map(str, range(30))))
    assert len(server.asked) < 15, "after the failure nothing new is asked"
    assert len(Answers(path)) == 5


def test_what_is_under_way_at_a_failure_still_arrives_and_is_kept(tmp_path):
    def slow_or_bad(asked: Asked) -> Answer:
        if asked.last == "bad":
            return Answer({"error": "no key"}, 401)
        time.sleep(0.3)
        return echo(asked)

    path = tmp_path / "kept.jsonl"
    with serving(slow_or_bad) as server, pytest.raises(UserError, match="wants a key"):
        client(server.url, Answers(path), concurrency=2).chat(ask("slow", "bad", "never"))
    assert len(Answers(path)) == 1 and "SLOW" in path.read_text()
    assert {asked.last for asked in server.asked} == {"slow", "bad"}


def test_a_failure_wakes_those_who_rest():
    def one_bad(asked: Asked) -> Answer:
        if asked.last == "bad":
            time.sleep(0.2)
            return Answer("", 401)
        return Answer("", 503, {"Retry-After": "30"})

    with serving(one_bad) as server:
        began = time.monotonic()
        with pytest.raises(UserError):
            client(server.url).chat(ask("resting", "bad"))
    assert time.monotonic() - began < 20.0


def test_kept_answers_are_not_asked_for_again(tmp_path):
    path = tmp_path / "kept.jsonl"
    with serving(echo) as server:
        client(server.url, Answers(path)).chat(ask("a", "b"))
        again, heard = client(server.url, Answers(path)), []
        assert texts(again.chat(ask("b", "c", "a"), heard.append)) == ["B", "C", "A"]
        assert len(server.asked) == 3 and again.asked == 1 and sum(heard) == 3
        other = client(server.url, Answers(path), body={"seed": 1})
        assert texts(other.chat(ask("a"))) == ["A"]
    assert len(server.asked) == 4, "another setting is another question"
    assert [asked.body.get("seed") for asked in server.asked] == [None, None, None, 1]


def test_the_same_question_at_another_address_is_another_question(tmp_path):
    kept = Answers(tmp_path / "kept.jsonl")
    with serving(echo) as one, serving(lambda asked: chat("no")) as two:
        assert texts(client(one.url, kept).chat(ask("a"))) == ["A"]
        assert texts(client(two.url, kept).chat(ask("a"))) == ["no"]


def test_a_line_that_a_crash_cut_short_is_skipped_and_the_next_stands_on_its_own(tmp_path):
    path = tmp_path / "kept.jsonl"
    kept = Answers(path)
    kept.put("a", {"text": "é\u2028x"})
    kept.put("b", 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    torn = Answers(path)
    assert (torn.get("a"), torn.get("b"), len(torn)) == ({"text": "é\u2028x"}, None, 1)
    torn.put("c", 3)
    found = Answers(path)
    assert (found.get("a"), found.get("b"), found.get("c")) == ({"text": "é\u2028x"}, None, 3)
    path.write_bytes(b'[]\n{"key": 1}\nnull\n\xff\xfe\n' + path.read_bytes())
    assert len(Answers(path)) == 2


def test_answers_below_a_file_cannot_be_kept(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Answers(tmp_path / "file" / "kept.jsonl").put("a", 1)


def test_the_key_goes_into_the_header_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", " secret-7 \n")
    with serving(echo) as server:
        asked = Client(endpoint(server.url, "m", key_env="MY_KEY"), Answers(tmp_path / "kept.jsonl"))
        asked.chat(ask("a"))
        assert server.asked[0].headers["Authorization"] == "Bearer secret-7"
        client(server.url).chat(ask("a"))
        assert "Authorization" not in server.asked[1].headers
    assert "secret" not in repr(asked.endpoint) + (tmp_path / "kept.jsonl").read_text()
    monkeypatch.setenv("MY_KEY", "böse")
    with pytest.raises(UserError, match="MY_KEY holds no key"):
        endpoint(server.url, "m", key_env="MY_KEY")


def test_fields_of_the_endpoint_s_own_replace_or_remove_those_of_a_request():
    made = endpoint("http://localhost:1", "m", body={"temperature": None, "top_p": 0.9})
    assert made.request(temperature=0.0, max_tokens=5) == {"model": "m", "max_tokens": 5, "top_p": 0.9}


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        (" https://host/api/v3/ ", "https://host/api/v3"),
        ("http://host/v1/chat/completions", "http://host/v1"),
    ],
)
def test_the_base_of_a_url(given, url):
    assert endpoint(given, "m").url == url


@pytest.mark.parametrize(
    "given", ["", "localhost:8000", "ftp://host", "http://", "http://a b/v1", "http://host:port", "http://u:p@host/v1"]
)
def test_what_is_no_url_is_refused(given):
    with pytest.raises(UserError, match="is no URL such as"):
        endpoint(given, "m")


def test_strange_text_goes_there_and_back():
    with serving(lambda asked: chat(asked.last)) as server:
        assert texts(client(server.url).chat(ask("é\x00\u2028😀\ud800"))) == ["é\x00\u2028😀\ud800"]
        assert texts(client(server.url).chat(ask(""))) == [""]


def test_a_message_without_content_is_empty():
    with serving(lambda asked: chat(None, "length")) as server:
        (reply,) = client(server.url).chat(ask("a"))
    assert (reply.text, reply.finish) == ("", "length")


@pytest.mark.parametrize(
    ("text", "answer"),
    [(" a ", "a"), ("<think>x</think>\na", "a"), ("x</think>a", "a"), ("<think>x", ""), ("<think>x</think>", "")],
)
def test_thought_before_an_answer_is_no_part_of_it(text, answer):
    assert Chat(text).answer == answer


def test_vectors_are_put_back_in_order():
    def vectors(asked: Asked) -> Answer:
        rows = [{"index": i, "embedding": [i, len(text)]} for i, text in enumerate(asked.body["input"])]
        return Answer({"data": rows[::-1]})

    with serving(vectors) as server:
        assert client(server.url).embed([["a", "bcd"], ["ef"]]) == [[[0, 1], [1, 3]], [[0, 2]]]
        assert server.asked[0].path == "/v1/embeddings"


def test_it_works_where_a_loop_is_running_already():
    async def notebook(url: str) -> list[str]:
        return texts(client(url).chat(ask("a")))

    with serving(echo) as server:
        assert asyncio.run(notebook(server.url)) == ["A"]


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(echo) as server:
        assert texts(client(server.url).chat(ask("a"))) == ["A"]


def test_kept_lines_are_plain_json(tmp_path):
    Answers(tmp_path / "kept").put("k", {"text": "ü"})
    assert json.loads((tmp_path / "kept").read_text()) == {"key": "k", "value": {"text": "ü"}}
