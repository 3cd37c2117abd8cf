"""`superrl rewrite` against a real local server whose replies are good, bad and late."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from chat_server import Answer, Asked, chat, serving
from small_runs import heeding_ctrl_c, rows, write_lines
from superrl import cli, data
from superrl.endpoint import Chat, Endpoint, Refused, endpoint
from superrl.errors import RunError, UserError
from superrl.records import Demonstration, Message, Problem, Step
from superrl.rewrite import INSTRUCTIONS, SHOTS, Columns, conversation, final_answer, load, read, rewrite
from superrl.steps.parse import Solution, parse

GIVEN = re.compile(r"QUESTION:\n(.*)\n\nGIVEN SOLUTION:\n(.*)", re.DOTALL)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERRL_CACHE", str(tmp_path / "cache"))


def given(asked: Asked) -> tuple[str, str]:
    question, solution = GIVEN.fullmatch(asked.last).groups()
    return question, solution


def divided(asked: Asked) -> Answer:
    """A good model's reply: a step for every sentence."""
    sentences = given(asked)[1].split(". ")
    steps = [f"{i}. **Do thing {i}** {sentence}" for i, sentence in enumerate(sentences, start=1)]
    return chat("Here you are.\n\nSOLUTION:\n" + "\n".join(steps))


def row(n: int, **more) -> dict:
    solution = f"We add {n} and 1. This gives {n} + 1 = {n + 1}. So the answer is {n + 1}"
    return {"id": f"q{n}", "prompt": f"What is {n} + 1?", "answer": str(n + 1), "demonstrations": [solution], **more}


def at(url: str, **settings) -> Endpoint:
    return endpoint(url, "m", key_env="NO_SUCH_KEY", pause=0.01, **settings)


def test_solutions_come_back_as_titled_steps_of_rows_that_load(tmp_path):
    source, out = write_lines(tmp_path / "in.jsonl", [row(n, level=n) for n in range(5)]), tmp_path / "out.jsonl"
    with serving(divided) as server:
        report = rewrite(str(source), out, at(server.url))
    assert (report.kept, report.solutions, report.problems, report.steps, report.asked) == (5, 5, 5, 15, 5)
    assert (report.prompt_tokens, report.completion_tokens) == (35, 15)
    problems = data.load(str(out), "train").problems
    assert [problem.id for problem in problems] == [f"q{n}" for n in range(5)]
    (demo,) = problems[2].demonstrations
    assert demo.source == "rewritten by m" and problems[2].meta == {"level": 2} and problems[2].answer == "3"
    assert demo.text == "1. **Do thing 1** We add 2 and 1\n2. **Do thing 2** This gives 2 + 1 = 3\n" + (
        "3. **Do thing 3** So the answer is 3"
    )
    assert demo.steps[1] == Step("This gives 2 + 1 = 3\n", "2. **Do thing 2** ", "Do thing 2")
    assert "".join(step.text for step in demo.steps) == demo.text


def test_what_is_asked(tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [row(1)])
    with serving(divided) as server:
        rewrite(str(source), tmp_path / "out.jsonl", at(server.url, body={"seed": 3}), max_tokens=99)
    (asked,) = server.asked
    assert {key: asked.body[key] for key in ("model", "temperature", "max_tokens", "seed")} == {
        "model": "m", "temperature": 0.0, "max_tokens": 99, "seed": 3,
    }  # fmt: skip
    assert [message["role"] for message in asked.body["messages"]] == ["system", *["user", "assistant"] * 2, "user"]
    assert asked.body["messages"][0]["content"] == INSTRUCTIONS
    assert given(asked) == ("What is 1 + 1?", row(1)["demonstrations"][0])


def test_our_own_examples_keep_our_own_rules():
    for _, original, reply in SHOTS:
        found = parse(reply.partition("\n")[2], "titled")
        assert isinstance(found, Solution) and found.preamble == "" and 3 <= len(found.steps) <= 10
        assert final_answer(reply) == final_answer(original)
        assert all(step.title and step.action.strip() for step in found.steps)
        assert not any(re.search(r"\d", step.title) for step in found.steps), "a title never says what comes out"


def test_every_reason_is_counted_with_an_example_and_the_rest_is_kept(tmp_path):
    def said(n: int, asked: Asked) -> Answer:
        good = divided(asked)
        one = "SOLUTION:\n1. **Add** 5"
        return {
            0: good,
            1: Answer("too long", 413),
            2: chat("SOLUTION:\n1. **Add** 2 + 1", "length"),
            3: chat("  "),
            4: chat("I would rather not divide this."),
            5: chat(one),
            6: chat("SOLUTION:\n1. **Add**\n2. **Say** \\boxed{7}"),
            7: chat("SOLUTION:\n1. **Add** 7 + 1\n2. **Say** \\boxed{9}"),
        }[n]

    wrong = row(8, answer="77")
    bare = {"id": "bare", "prompt": "Is it even?", "demonstrations": ["It is. That is plain"]}
    none = {"id": "none", "prompt": "What is it?", "answer": "1"}
    source = write_lines(tmp_path / "in.jsonl", [*map(row, range(8)), wrong, bare, none])
    with serving(lambda asked: said(int(given(asked)[0].split()[2]), asked)) as server:
        report = rewrite(str(source), tmp_path / "out.jsonl", at(server.url))
    expected = ["refused", "cut", "empty", "no_steps", "one_step", "empty_step", "answer_lost"]
    expected += ["original_wrong", "no_answer", "no_solution"]
    assert report.dropped == Counter(expected) and report.kept == 1 and report.solutions == 11
    assert len(server.asked) == 8, "what cannot be kept is not asked for"
    assert report.examples["answer_lost"] == [{"id": "q7", "said": "1. **Add** 7 + 1\n2. **Say** \\boxed{9}"}]
    assert report.examples["refused"] == [{"id": "q1", "said": "413: too long"}]
    assert [line["id"] for line in rows(tmp_path, "out.jsonl")] == ["q0"]
    assert (
        "dropped 1 answer_lost (the final answer changed), q7: 1. **Add** 7 + 1 2. **Say** \\boxed{9}" in report.text()
    )
    assert json.loads(json.dumps(report.row()))["dropped"]["cut"] == 1


def test_without_an_answer_of_the_row_the_original_s_own_counts(tmp_path):
    texts = {
        "boxed": "We see 3. Thus \\boxed{\\frac{1}{2}}",
        "hashes": "We see 3. So\n#### 12",
        "number": "We see 3. Then 5 rolls",
        "changed": "We see 3. Then 8 rolls",
    }
    source = write_lines(
        tmp_path / "in.jsonl", [{"id": key, "prompt": key, "demonstrations": [text]} for key, text in texts.items()]
    )

    def reply(asked: Asked) -> Answer:
        last = {"boxed": "\\boxed{0.5}", "hashes": "\\boxed{12}", "number": "\\boxed{5}", "changed": "\\boxed{9}"}
        return chat(f"SOLUTION:\n1. **See** it is 3\n2. **Say** {last[given(asked)[0]]}")

    with serving(reply) as server:
        report = rewrite(str(source), tmp_path / "out.jsonl", at(server.url))
    assert report.dropped == Counter(answer_lost=1)
    assert [line["id"] for line in rows(tmp_path, "out.jsonl")] == ["boxed", "hashes", "number"]


def test_a_solution_that_hides_its_answer_is_asked_for(tmp_path):
    hidden = row(1, answer="7", demonstrations=["First there are 3. Four more come in, so that it is seven"])
    source = write_lines(tmp_path / "in.jsonl", [hidden])
    with serving(lambda asked: chat("SOLUTION:\n1. **Count** 3\n2. **Add** $3 + 4 = \\boxed{7}$")) as server:
        assert rewrite(str(source), tmp_path / "out.jsonl", at(server.url)).kept == 1
    with serving(divided) as server:
        report = rewrite(str(source), tmp_path / "out.jsonl", at(server.url))
    assert report.dropped == Counter(answer_lost=1)


def test_the_data_s_own_reward_checks_where_it_brings_one_or_one_is_named(tmp_path):
    line = row(1, answer="two", demonstrations=["We add. It is two"])
    source = write_lines(tmp_path / "in.jsonl", [line])
    with serving(divided) as server:
        report = rewrite(str(source), tmp_path / "out.jsonl", at(server.url), reward={"name": "exact", "after": "is "})
        assert report.kept == 1
        with pytest.raises(UserError, match="never says what is correct"):
            rewrite(str(source), tmp_path / "out.jsonl", at(server.url), reward={"name": "step_similarity"})


def test_several_solutions_of_a_problem_are_each_rewritten(tmp_path):
    two = row(1, demonstrations=["We add 1. It is 2", "Wrong. The answer is 5", "Count on from 1. It is 2"])
    source = write_lines(tmp_path / "in.jsonl", [two])
    with serving(divided) as server:
        report = rewrite(str(source), tmp_path / "out.jsonl", at(server.url))
    (problem,) = data.load(str(tmp_path / "out.jsonl"), "train").problems
    assert [demo.steps[0].action for demo in problem.demonstrations] == ["We add 1\n", "Count on from 1\n"]
    assert (report.kept, report.problems, report.dropped) == (2, 1, Counter(original_wrong=1))


def test_a_second_run_asks_nothing_it_has_and_goes_on_where_the_first_stopped(tmp_path):
    source, out = write_lines(tmp_path / "in.jsonl", list(map(row, range(12)))), tmp_path / "out.jsonl"

    def dies(asked: Asked) -> Answer:
        return divided(asked) if asked.number < 5 or asked.number > 8 else Answer({"error": "gone"}, 500)

    with serving(dies) as server:
        where = at(server.url, retries=0, concurrency=1)
        with pytest.raises(RunError, match="5 answers so far are kept in"):
            rewrite(str(source), out, where)
        assert not out.exists() and len(server.asked) == 6
        server.asked.extend(server.asked[:4])  # the server is back
        report = rewrite(str(source), out, where)
        assert (report.asked, report.from_disk, report.kept) == (7, 5, 12)
        whole, count = out.read_bytes(), len(server.asked)
        again = rewrite(str(source), out, where)
        assert (again.asked, again.from_disk, out.read_bytes()) == (0, 12, whole) and len(server.asked) == count


def test_columns_of_a_file_of_another_kind(tmp_path):
    line = {"question": "What is 1 + 1?", "attempt": "We add. It is 2", "solution": "2", "prompt": "not this", "x": 1}
    source = write_lines(tmp_path / "in.jsonl", [line])
    columns = Columns("question", "attempt", "solution")
    (problem,) = load(str(source), columns).problems
    assert (problem.prompt, problem.answer, problem.meta) == ("What is 1 + 1?", "2", {"x": 1})
    assert problem.demonstrations == (Demonstration("We add. It is 2"),)
    with pytest.raises(UserError, match="line 1 has no column 'atempt': did you mean 'attempt'"):
        load(str(source), Columns("question", "atempt", None))
    two = write_lines(tmp_path / "two.jsonl", [{**line, "id": "a"}] * 2)
    with pytest.raises(UserError, match="the id 'a' stands 2 times"):
        load(str(two), columns)


@pytest.mark.parametrize(
    ("reply", "steps"),
    [
        ("SOLUTION:\n1. **A** x\n2. **B** y", ["x\n", "y"]),
        ("1. **A** x\n2. **B** y\n", ["x\n", "y"]),
        ("Of course!\n\n1. **A** x\n2. **B** y", ["x\n", "y"]),
        ("**SOLUTION:**\n\n1. **A**: x\n2. **B**: y", ["x\n", "y"]),
        ("```markdown\n1. **A** x\n2. **B** y\n```", ["x\n", "y"]),
        ("SOLUTION:\n```\n1. **A** x\n2. **B** y\n```", ["x\n", "y"]),
        ("<think>1. **No** n\n2. **Not** m</think>\nSOLUTION:\n1. **A** x\n2. **B** y", ["x\n", "y"]),
        ("Draft:\n1. **C** z\n2. **D** w\nSOLUTION:\n1. **A** x\n2. **B** y", ["x\n", "y"]),
    ],
)
def test_what_stands_around_the_steps_is_taken_off(reply, steps):
    found = read(Chat(reply))
    assert isinstance(found, Solution) and found.preamble == ""
    assert [step.action for step in found.steps] == steps


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Refused("no"), "refused"),
        (Chat("1. **A** x\n2. **B** y", "length"), "cut"),
        (Chat("<think>1. **A** x\n2. **B** y"), "empty"),
        (Chat("1. **A** x"), "one_step"),
        (Chat("- **A** x\n- **B** y"), "no_steps"),
        (Chat("1. **A**\n2. **B** y"), "empty_step"),
    ],
)
def test_why_a_reply_is_no_use(reply, why):
    assert read(reply) == why


def test_a_conversation_s_question_is_told_by_its_roles():
    messages: tuple[Message, ...] = ({"role": "system", "content": "S"}, {"role": "user", "content": "U"})
    problem = Problem("p", messages, "1", (Demonstration("d"),))
    from superrl.rewrite import Item

    asked = conversation(Item(problem, problem.demonstrations[0], problem, True))
    assert asked[-1]["content"] == "QUESTION:\n[system]\nS\n\n[user]\nU\n\nGIVEN SOLUTION:\nd"


# The command


def command(source: Path, url: str, out: Path, *more: str) -> list[str]:
    return ["rewrite", str(source), "--endpoint", url, "--model", "m", "--out", str(out), *more]


def test_the_command_says_what_it_did_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KEY", "k7")
    source = write_lines(tmp_path / "in.jsonl", [row(1), row(2), row(3, answer="9")])
    with serving(divided) as server:
        more = ["--report", str(tmp_path / "report.json"), "--key-env", "KEY", "--body", "{temperature: null, seed: 1}"]
        status = cli.run(command(source, server.url, tmp_path / "out.jsonl", *more))
    out, err = capsys.readouterr()
    assert status == 0, err
    assert out.startswith("2 of 3 solutions to rewrite; replies are kept in ")
    assert out.splitlines()[-3] == "2 of 3 solutions rewritten, of 2 problems, 3.0 steps each"
    assert "2 replies from m, 0 from disk; 14 + 6 tokens" in out
    assert "dropped 1 original_wrong (the solution itself has another answer), q3" in out
    assert "temperature" not in server.asked[0].body and server.asked[0].body["seed"] == 1
    assert server.asked[0].headers["Authorization"] == "Bearer k7"
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["kept"], told["dropped"], told["source"]) == (2, {"original_wrong": 1}, str(source))


def test_when_nothing_survives_nothing_is_written_but_the_report(tmp_path, capsys):
    source, out = write_lines(tmp_path / "in.jsonl", [row(1)]), tmp_path / "out.jsonl"
    with serving(lambda asked: chat("no")) as server:
        status = cli.run(command(source, server.url, out, "--report", str(tmp_path / "report.json")))
    told, err = capsys.readouterr()
    assert status == 2 and "no solution of" in err and not out.exists()
    assert "dropped 1 no_steps" in told and json.loads((tmp_path / "report.json").read_text())["kept"] == 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--out", "/nowhere/out.jsonl"], "must be a file in a folder that exists"),
        (["--out", "out.parquet"], "must end in .jsonl"),
        (["--endpoint", "localhost:1"], "is no URL such as"),
        (["--body", "[1]"], "must be a mapping"),
        (["--report", "/nowhere/report.json"], "cannot write /nowhere/report.json"),
    ],
)
def test_wrong_input_is_one_sentence(tmp_path, capsys, more, sentence):
    source = write_lines(tmp_path / "in.jsonl", [row(1)])
    assert cli.run([*command(source, "http://127.0.0.1:9/v1", tmp_path / "o.jsonl"), *more]) == 2
    _, err = capsys.readouterr()
    assert sentence in err and err.count("\n") == 1


@pytest.mark.parametrize("option", ["--out", "--report", "--kept"])
def test_the_rows_that_are_rewritten_are_not_written_over(tmp_path, capsys, option):
    source = write_lines(tmp_path / "in.jsonl", [row(1)])
    before = source.read_bytes()
    with serving(divided) as server:
        line = command(source, server.url, tmp_path / "out.jsonl", option, str(source))
        assert cli.run(line) == 2 and not server.asked
    assert f"{option} {source} is a file that is read or written already" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_server_that_is_down_is_one_sentence_and_status_2(tmp_path, capsys):
    source = write_lines(tmp_path / "in.jsonl", [row(1)])
    assert cli.run(command(source, "http://127.0.0.1:9/v1", tmp_path / "o.jsonl")) == 2
    assert "nothing answers at http://127.0.0.1:9/v1" in capsys.readouterr().err


def test_ctrl_c_ends_it_at_once_and_loses_no_reply(tmp_path):
    source, out = write_lines(tmp_path / "in.jsonl", list(map(row, range(6)))), tmp_path / "out.jsonl"
    gate, third = threading.Event(), threading.Event()

    def slow(asked: Asked) -> Answer:
        if asked.number == 2:
            third.set()
            gate.wait(60)
        return divided(asked)

    with serving(slow) as server:
        line = [sys.executable, "-m", "superrl.cli", *command(source, server.url, out, "--concurrency", "1")]
        with subprocess.Popen(
            line, stderr=subprocess.PIPE, env=dict(os.environ), text=True, preexec_fn=heeding_ctrl_c
        ) as process:
            assert third.wait(60)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130 and time.monotonic() - began < 30.0 and err == ""
        gate.set()
        report = rewrite(str(source), out, endpoint(server.url, "m"))
    assert (report.from_disk, report.asked, report.kept) == (2, 4, 6)
