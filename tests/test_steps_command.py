"""`superrl steps`: rows that read back as the same problems, a report, one sentence for what is wrong."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings

from superrl import cli, data
from superrl.data.importers import load_trajectories
from superrl.data.instances import InstanceOptions, instances
from superrl.data.written import row_of
from superrl.errors import UserError
from superrl.trajectories import convert
from trajectory_rows import ALL, CHAT, GYM, PLANNING, VALUES, write

AGENT = {
    "messages": [
        {"role": "system", "content": "You may call tools."},
        {"role": "user", "content": "Fix the bug."},
        {
            "role": "assistant",
            "content": "Look.",
            "tool_calls": [
                {"function": {"name": "bash", "arguments": '{"command": "ls src"}'}, "id": "1", "type": "function"}
            ],
        },
        {"role": "tool", "content": "a.py", "tool_call_id": "1"},
        {
            "role": "assistant",
            "content": "Done.",
            "tool_calls": [{"function": {"name": "submit", "arguments": "{}"}, "id": "2", "type": "function"}],
        },
    ]
}


@pytest.fixture
def gym(tmp_path):
    return write(
        tmp_path / "in.jsonl",
        GYM,
        GYM | {"response": "four"},
        GYM | {"response": "1. a\n2. b\n3. c", "x": [1, {"y": None}]},
    )


@pytest.mark.parametrize("row", [*ALL.values(), AGENT], ids=[*ALL, "agent"])
def test_rows_read_back_as_the_same_problems(tmp_path, row):
    source, out = write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl"
    imported = load_trajectories(source)
    convert(source, out)
    assert data.load(str(out), "train").problems == imported.problems
    again = load_trajectories(str(out))
    assert (again.format, again.problems) == ("rows", imported.problems)


@pytest.mark.parametrize("row", [GYM, CHAT, AGENT], ids=["gym", "chat", "agent"])
@pytest.mark.parametrize("options", [InstanceOptions(), InstanceOptions(targets="all", think="none")])
def test_instances_read_back_as_the_same_problems(tmp_path, row, options):
    source, out = write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl"
    wanted = tuple(instances(load_trajectories(source).problems, options))
    convert(source, out, targets=options)
    assert data.load(str(out), "train").problems == wanted
    with pytest.raises(UserError, match=r"out\.jsonl, read as rows, leaves nothing to write \(. is_step; first: "):
        convert(str(out), tmp_path / "again.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=150)
@given(VALUES)
def test_whatever_stands_in_a_file_it_is_read_back_or_refused(folder, values):
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    try:
        convert(write(folder / "in.jsonl", values), out, report=folder / "report.json")
    except UserError:
        assert not out.exists()
    else:
        read = data.load(str(out), "train").problems
        assert [json.dumps(row_of(problem)) for problem in read] == [
            json.dumps(row_of(problem)) for problem in load_trajectories(str(folder / "in.jsonl")).problems
        ]


def test_the_command_by_hand(gym, tmp_path, capsys):
    out, report = tmp_path / "out.jsonl", tmp_path / "report.json"
    assert cli.run(["steps", gym, "--out", str(out), "--report", str(report)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "read     3 rows as reasoning-gym, 2 trajectories, 5 steps of 2 to 3, median 3",
        "cut as   titled 1 (50 %), numbered 1 (50 %)",
        "dropped  1 one_step: a single step",
        f"wrote    2 rows, one a trajectory: {out}",
    ]
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first["id"] == f"{tmp_path.name}/in.jsonl:1"
    assert first["demonstrations"][0]["steps"][0] == {"action": "2+2\n", "lead": "1. **Add** ", "title": "Add"}
    assert (second["answer"], second["x"], second["format"]) == ("4", [1, {"y": None}], "numbered")
    assert json.loads(report.read_text()) == {
        "source": gym,
        "format": "reasoning-gym",
        "settings": {"parser": "auto", "unresolved": False, "submit": True},
        "rows": 3,
        "trajectories": 2,
        "steps": 5,
        "steps_of_a_trajectory": {"least": 2, "median": 3, "most": 3},
        "instances": None,
        "cut_as": {"titled": 1, "numbered": 1},
        "tools": {},
        "dropped": {"one_step": {"count": 1, "why": "a single step", "examples": [f"{gym}, line 2"]}},
    }


@pytest.mark.parametrize(("targets", "rows"), [("paper", 3), ("next", 3), ("all", 5), ("whole", 2)])
def test_a_row_a_step(gym, tmp_path, capsys, targets, rows):
    out, report = tmp_path / "out.jsonl", tmp_path / "report.json"
    arguments = ["--targets", targets, "--think", "required", "--report", str(report)]
    assert cli.run(["steps", gym, "--out", str(out), *arguments]) == 0
    assert f"wrote    {rows} rows, one a step" in capsys.readouterr().out
    problems = data.load(str(out), "train").problems
    assert len(problems) == json.loads(report.read_text())["instances"] == rows
    assert {problem.meta["think"] for problem in problems} == {"required"}


def test_options_reach_the_importers(tmp_path, capsys):
    agent, plan, out = (
        write(tmp_path / "a.jsonl", AGENT),
        write(tmp_path / "p.jsonl", PLANNING | {"correct": False}),
        tmp_path / "o.jsonl",
    )
    assert cli.run(["steps", agent, "--out", str(out)]) == 0
    assert "1 trajectories, 2 steps" in capsys.readouterr().out
    assert cli.run(["steps", agent, "--out", str(out), "--drop-submit"]) == 0
    assert "1 trajectories, 1 steps" in capsys.readouterr().out
    assert cli.run(["steps", plan, "--out", str(out)]) == 2
    assert "(1 unresolved; first:" in (told := capsys.readouterr().err) and "or pass --unresolved" in told
    assert cli.run(["steps", plan, "--out", str(out), "--unresolved", "--parser", "numbered"]) == 0
    assert "cut as   numbered 1" in capsys.readouterr().out
    assert cli.run(["steps", plan, "--out", str(out), "--format", "champ"]) == 2
    assert "read as champ, leaves nothing to write (1 unresolved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.jsonl", "--out", "OUT"], "there is no file nowhere.jsonl"),
        (["IN", "--out", "IN"], "--out IN is a file that is read or written already"),
        (["IN", "--out", "OUT", "--report", "OUT"], "--report OUT is a file that is read or written already"),
        (["IN", "--out", "OUT.txt"], "must end in .jsonl"),
        (["IN", "--out", "/nowhere/out.jsonl"], "/nowhere/out.jsonl must be a file in a folder"),
        (["IN", "--out", "OUT", "--report", "/nowhere/r.json"], "cannot write /nowhere/r.json"),
        (["IN", "--out", "OUT", "--format", "gym"], "there is no format 'gym'"),
        (["IN", "--out", "OUT", "--parser", "title"], "--parser 'title': did you mean 'titled'?"),
        (["IN", "--out", "OUT", "--targets", "last"], "--targets 'last': known: all, next, paper, whole"),
        (["IN", "--out", "OUT", "--targets", "all", "--think", "no"], "--think 'no': did you mean 'none'?"),
        (["IN", "--out", "OUT", "--think", "none"], "--think none is about rows of one step each: add --targets"),
        (["IN"], "--out"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(gym, tmp_path, capsys, arguments, sentence):
    out = tmp_path / "out.jsonl"
    real = {"IN": gym, "OUT": str(out)}
    assert cli.run(["steps", *(real.get(argument, argument) for argument in arguments)]) == 2
    told = capsys.readouterr().err.replace(gym, "IN").replace(str(out), "OUT")
    assert sentence in told and told.count("\n") == 1
    assert not out.exists() and not out.with_name("out.jsonl.partial").exists()


def test_what_cannot_be_written_whole_is_not_written(gym, tmp_path):
    """A limit on the size of files stands for a full disk; the file that was there stays."""
    out = tmp_path / "out.jsonl"
    out.write_text("before\n")
    code = (
        "import resource, signal, sys; from superrl import cli\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "sys.exit(cli.run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "steps", gym, "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{out} was not written (File too large)" in done.stderr
    assert out.read_text() == "before\n" and sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.jsonl",
    ]


def test_it_starts_no_torch(gym, tmp_path):
    code = "import sys; from superrl import cli; assert cli.run(sys.argv[1:]) == 0; sys.exit('torch' in sys.modules)"
    arguments = ["steps", gym, "--out", str(tmp_path / "out.jsonl"), "--targets", "all"]
    assert subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False).returncode == 0
