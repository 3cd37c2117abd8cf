"""Anybody's written solutions become trajectories in steps; what cannot be used is dropped and counted."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from superrl.data.files import Row, read_rows
from superrl.data.importers import FORMATS, ImportOptions, load_trajectories, recognise
from superrl.data.importers.base import Drop
from superrl.data.importers.report import WIDTH, figures, summary
from superrl.data.importers.solutions import MESSAGES, OWN, SOLUTION_FORMATS, is_wrong
from superrl.errors import UserError
from superrl.records import Demonstration, Problem, Step
from trajectory_rows import ALL, CHAMP, CHAT, GSM8K, GYM, KNIGHTS, MATH, PLANNING, ROW, S1K, TEXT, VALUES, write

TITLED = (Step("2+2\n", "1. **Add** ", "Add"), Step("\\boxed{4}", "2. **Say** ", "Say"))


def convert(format, **values):
    return list(FORMATS[format].convert(Row(values, "f.jsonl", 3), ImportOptions()))


def only(tmp_path, *rows, **options):
    """The one trajectory of a file with these rows."""
    found = load_trajectories(write(tmp_path / "f.jsonl", *rows), options=ImportOptions(**options))
    (problem,) = found.problems
    return problem


@pytest.mark.parametrize("name", ALL)
def test_every_format_is_recognised(tmp_path, name):
    found = load_trajectories(
        write(tmp_path / "f.jsonl", ALL[name], ALL[name] | ({"id": "b"} if "id" in ALL[name] else {}))
    )
    assert (found.format, found.rows, len(found.problems), found.drops.counts) == (name, 2, 2, {})
    assert all(len(problem.demonstrations[0].steps) >= 2 for problem in found.problems)


def test_s1k_by_hand(tmp_path):
    assert only(tmp_path, S1K) == Problem(
        f"{tmp_path.name}/f.jsonl:1",
        ({"role": "user", "content": "2+2?"},),
        "4",
        (Demonstration(TEXT, TITLED, "deepseek-r1"),),
        {"cot_type": "math", "source_type": "me", "thinking": "Hm.", "format": "titled"},
    )
    assert only(tmp_path, S1K | {"solution": "128"}).answer == "128"
    assert only(tmp_path, S1K | {"solution": "A long\nproof."}).answer == "4"
    assert convert("s1k", **S1K | {"deepseek_grade": "No"}) == [Drop("f.jsonl, line 3", "unresolved")]


def test_lists_of_steps_by_hand(tmp_path):
    gsm = only(tmp_path, GSM8K).demonstrations[0]
    assert gsm.steps == (Step("It is 2*3=6 first."), Step("Then 2+6=8."), Step("The answer is \\boxed{8}."))
    knights = only(tmp_path, KNIGHTS)
    assert knights.answer == "Amy is a knight, Bo is a knave"
    assert knights.demonstrations[0] == Demonstration(
        "Let's see.\nAssume Amy is a knight.\nBo is a knave.\nIt works. Amy is a knight, Bo is a knave.",
        (Step("Assume Amy is a knight."), Step("Bo is a knave."), Step("It works. Amy is a knight, Bo is a knave.")),
        "knights-and-knaves",
    )
    assert only(tmp_path, KNIGHTS | {"names": "['Amy', 'Bo']", "steps": str(KNIGHTS["steps"])}) == knights
    champ = only(tmp_path, CHAMP)
    assert (champ.id, champ.answer, champ.meta) == ("P_1", "7", {"category": "Sums", "format": "lines"})
    assert champ.demonstrations[0].steps == (Step("a = 3."), Step("b = 4."))


def test_answers_of_models_by_hand(tmp_path):
    gym, planning = only(tmp_path, GYM), only(tmp_path, PLANNING)
    assert (gym.answer, gym.meta) == ("4", {"task": "sums", "model": "m", "format": "titled"})
    assert (planning.id, planning.answer) == ("blocks_3-7", "(a)\n(b)")
    assert planning.meta == {"domain": "blocks_3", "correct": True, "thinking": "Hm.", "format": "titled"}
    assert gym.demonstrations[0].steps == planning.demonstrations[0].steps == TITLED
    assert only(tmp_path, GYM | {"answer": None}).answer is None
    math = only(tmp_path, MATH)
    assert (math.answer, math.meta["format"], len(math.demonstrations[0].steps)) == ("4", "sentences", 2)


def test_the_parser_is_the_user_s(tmp_path):
    assert only(tmp_path, GYM, parser="numbered").demonstrations[0].steps[0].title == ""
    (drop,) = FORMATS["reasoning-gym"].convert(Row(GYM, "f", 1), ImportOptions(parser="step"))
    assert drop == Drop("f, line 1", "no_steps")


@pytest.mark.parametrize(
    ("demonstration", "steps", "form"),
    [
        (TEXT, TITLED, "titled"),
        ({"text": TEXT}, TITLED, "titled"),
        ({"steps": ["1. **Add** 2+2\n", "2. **Say** \\boxed{4}"], "text": TEXT}, TITLED, "titled"),
        ({"steps": ["2+2", "4"]}, (Step("2+2"), Step("4")), None),
        ({"steps": ["2+2. Yes.", "4"], "text": "2+2. Yes.\n4"}, (Step("2+2. Yes."), Step("4")), None),
        ({"steps": [{"action": "ls", "tool": "ls"}]}, (Step("ls", tool="ls"),), None),
    ],
)
def test_our_own_rows(tmp_path, demonstration, steps, form):
    problem = only(tmp_path, ROW | {"demonstrations": [demonstration], "level": 3})
    assert problem.demonstrations[0].steps == steps
    assert (problem.meta.get("format"), problem.meta["level"], problem.answer) == (form, 3, "4")


def test_every_demonstration_is_a_trajectory_with_a_name_of_its_own(tmp_path):
    path = write(tmp_path / "f.jsonl", ROW | {"demonstrations": [TEXT, "", TEXT]}, ROW, ROW | {"id": "a-2"})
    found = load_trajectories(path)
    assert [problem.id for problem in found.problems] == ["a", "a-2", "a-3", "a-2-2"]
    taken = load_trajectories(write(tmp_path / "g.jsonl", ROW | {"id": "a-2"}, ROW, ROW))
    assert [problem.id for problem in taken.problems] == ["a-2", "a", "a-3"]
    assert all(len(problem.demonstrations) == 1 for problem in found.problems)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completion": None}, "no_demonstration"),
        ({"prompt": "q", "completion": " "}, "empty"),
        ({"prompt": "q", "completion": "So it is four"}, "one_step"),
        ({"prompt": "q", "completion": "?"}, "no_steps"),
        ({"prompt": " ", "completion": TEXT}, "malformed"),
        ({"prompt": 3, "completion": TEXT}, "malformed"),
        ({"prompt": "q", "completion": TEXT, "answer": ["4"]}, "malformed"),
        ({"prompt": "q\ud800", "completion": TEXT}, "malformed"),
        ({"prompt": "q", "completion": TEXT, "id": "\ud800"}, "malformed"),
        ({"prompt": "q", "completion": TEXT, "correct": False}, "unresolved"),
        ({"prompt": "q", "completion": TEXT, "trajectory": "t", "step": 1, "steps": 2}, "is_step"),
    ],
)
def test_what_is_dropped_and_why(tmp_path, row, reason):
    found = load_trajectories(write(tmp_path / "f.jsonl", ROW, row))
    assert [problem.id for problem in found.problems] == ["a"]
    assert found.drops.counts == {reason: 1}
    assert found.drops.examples == {reason: [f"{tmp_path}/f.jsonl, line 2"]}


def test_dropped_rows_of_the_other_formats(tmp_path):
    assert convert("champ", **CHAMP | {"steps": ["only one"]}) == [Drop("f.jsonl, line 3", "one_step")]
    assert convert("champ", **CHAMP | {"steps": []}) == [Drop("f.jsonl, line 3", "no_steps")]
    for values in (CHAMP | {"steps": "__import__('os')"}, CHAMP | {"steps": "[" * 5000}, CHAMP | {"steps": [1]}):
        assert convert("champ", **values) == [Drop("f.jsonl, line 3", "malformed")]
    assert convert("knights-and-knaves", **KNIGHTS | {"names": ["Amy"]}) == [Drop("f.jsonl, line 3", "malformed")]
    assert convert("gsm8k", question="q", answer="no mark") == [Drop("f.jsonl, line 3", "malformed")]
    assert convert("math", problem="q", answer="4", solution=None) == [Drop("f.jsonl, line 3", "no_demonstration")]


@pytest.mark.parametrize("said", [False, 0, "No", " wrong ", "unresolved", 0.0])
def test_wrong_solutions_are_left_out_unless_wanted(tmp_path, said):
    rows = [PLANNING, PLANNING | {"id": 8, "correct": said}]
    assert only(tmp_path, *rows).id == "blocks_3-7"
    found = load_trajectories(str(tmp_path / "f.jsonl"), options=ImportOptions(unresolved=True))
    assert [problem.id for problem in found.problems] == ["blocks_3-7", "blocks_3-8"]


@pytest.mark.parametrize("said", [True, 1, "Yes", "right", None, "unknown"])
def test_what_says_nothing_is_taken_at_its_word(said):
    assert not is_wrong({"correct": said})


def test_a_chat_keeps_its_turns(tmp_path):
    earlier = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    chat = only(tmp_path, {"messages": [*earlier, {"role": "assistant", "content": TEXT}]})
    assert list(chat.messages) == earlier and chat.meta["conversational"] is True
    assert "conversational" not in only(tmp_path, ROW).meta


def test_files_with_one_object(tmp_path):
    for name in ("a.traj", "a.json"):
        path = tmp_path / name
        path.write_text(json.dumps(ROW, indent=2))
        assert read_rows(str(path)) == [Row(ROW, str(path), 1)]
        path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"id": "b"}))
        assert [row.values["id"] for row in read_rows(str(path))] == ["a", "b"]
        for bad, sentence in (
            ("{\n", "is not valid JSON"),
            ("3\n4", "is a number, not an object"),
            ('"a"', "is text, not an object"),
        ):
            path.write_text(bad)
            with pytest.raises(UserError, match=sentence):
                read_rows(str(path))


def test_a_file_of_messages_is_one_trajectory(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CHAT["messages"]))
    found = load_trajectories(str(path))
    assert (found.format, found.rows, [problem.prompt for problem in found.problems]) == ("messages", 1, ["2+2?"])


def test_unknown_formats_are_one_sentence(tmp_path):
    path = write(tmp_path / "f.jsonl", {"colour": "red", "size": 3})
    assert recognise(read_rows(path)) is None
    with pytest.raises(
        UserError, match=r"f\.jsonl looks like no file .* \(columns colour, size\): name its format, one of "
    ):
        load_trajectories(path)
    with pytest.raises(UserError, match="there is no format 's1kk': did you mean 's1k'"):
        load_trajectories(path, "s1kk")
    assert load_trajectories(path, "s1k").drops.counts == {"malformed": 1}


@settings(max_examples=500)
@given(VALUES)
def test_no_row_stops_an_importer(values):
    row = Row(values, "f", 1)
    for format in (OWN, *SOLUTION_FORMATS, MESSAGES):
        format.looks_like([row])
        for found in format.convert(row, ImportOptions(unresolved=True)):
            assert isinstance(found, Drop) or len(found.demonstrations[0].steps) >= 1


def test_the_summary_fits_a_terminal(tmp_path):
    found = load_trajectories(write(tmp_path / "f.jsonl", ROW))
    for number in range(9):
        found.drops.add(Drop("f", f"reason_{number} " * 9))
        found.drops.add(Drop("f", "unresolved"))
    turns = [(Step("ls", tool=f"a tool with a long name {k % 12}"),) for k in range(48)]
    many = tuple(replace(found.problems[0], demonstrations=(Demonstration("ls", steps),)) for steps in turns)
    told = figures(replace(found, problems=many), "f.jsonl", {"parser": "auto"}, 7)
    assert told["dropped"]["unresolved"] == {"count": 9, "why": "did not solve the task", "examples": ["f"] * 3}
    lines = summary(told, "rows.jsonl").splitlines()
    assert len(lines) <= 16 and max(map(len, lines)) <= WIDTH
    assert lines[0] == "read     1 rows as rows, 48 trajectories, 48 steps of 1 to 1, median 1"
    assert "others 20 (42 %)" in " ".join(" ".join(lines).split())
    assert lines[-2:] == ["         and 4 more reasons", "wrote    7 rows, one a step: rows.jsonl"]


REAL = Path(os.environ.get("SUPERRL_DATA", ""))


@pytest.mark.parametrize(
    ("name", "format", "kept", "steps", "drops"),
    [
        ("steps/reasoning_gym_expert_steps.jsonl.gz", "reasoning-gym", 9323, 51956, {}),
        ("steps/kk_steps.jsonl.gz", "knights-and-knaves", 5000, 66787, {}),
        ("steps/planning_deepseek_r1.jsonl.gz", "planning", 156, 762, {"unresolved": 45}),
        ("steps/champ.jsonl", "champ", 266, 1622, {"one_step": 4}),
        ("gsm8k/train.jsonl", "gsm8k", 7473, 34193, {}),
        ("math/train.jsonl.gz", "math", 5867, 39264, {"one_step": 1615, "no_steps": 18}),
    ],
)
def test_real_files(name, format, kept, steps, drops):
    if not os.environ.get("SUPERRL_DATA") or not (REAL / name).is_file():
        pytest.skip(f"needs {name} in the folder that SUPERRL_DATA names")
    found = load_trajectories(str(REAL / name))
    assert (found.format, len(found.problems), found.drops.counts) == (format, kept, drops)
    assert sum(len(problem.demonstrations[0].steps) for problem in found.problems) == steps
    if format == "reasoning-gym":
        assert sum(problem.meta["format"] != "sentences" for problem in found.problems) >= 0.95 * found.rows
