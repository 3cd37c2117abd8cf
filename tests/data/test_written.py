"""Problems written as rows read back as the same problems."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl import data
from superrl.data.files import Row
from superrl.data.rows import OWN_COLUMNS, problems_of
from superrl.data.written import check_out, row_of, write_rows
from superrl.errors import RunError, UserError
from superrl.records import Demonstration, Problem, Step

TEXT = st.text(max_size=12)
WORDS = TEXT.filter(str.strip)
STEPS = st.builds(Step, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT)
DEMONSTRATIONS = st.builds(Demonstration, WORDS, st.lists(STEPS, max_size=3).map(tuple), TEXT)
META = st.dictionaries(
    WORDS.filter(lambda key: key not in OWN_COLUMNS | {"conversational"}),
    st.one_of(st.integers(), TEXT, st.none(), st.lists(TEXT, max_size=2)),
    max_size=3,
)


@st.composite
def problems(draw) -> Problem:
    turns = draw(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=2))
    messages = tuple({"role": role, "content": text} for role, text in [*turns, ("user", draw(WORDS))])
    meta = draw(META) | ({"conversational": True} if turns or draw(st.booleans()) else {})
    demonstrations = tuple(draw(st.lists(DEMONSTRATIONS, max_size=2)))
    return Problem(draw(TEXT), messages, draw(st.none() | TEXT), demonstrations, meta, draw(TEXT))


@given(problems())
def test_a_problem_comes_back(problem):
    line = json.dumps(row_of(problem), ensure_ascii=False, default=str)
    (found,) = problems_of([Row(json.loads(line), "f", 1)], Counter())
    assert found == problem


def test_a_row_says_no_more_than_it_must():
    one = Problem("a", ({"role": "user", "content": "q"},), None, (Demonstration("d"),), {"level": 1})
    assert row_of(one) == {"id": "a", "prompt": "q", "demonstrations": ["d"], "level": 1}
    two = Demonstration("x y", (Step("x"), Step("y", title="T")), "s")
    assert row_of(Problem("a", one.messages, "1", (two,), opening="So")) == {
        "id": "a", "prompt": "q", "opening": "So", "answer": "1",
        "demonstrations": [{"text": "x y", "steps": ["x", {"action": "y", "title": "T"}], "source": "s"}],
    }  # fmt: skip


def test_a_column_of_the_source_s_own_does_not_take_the_place_of_ours():
    one = Problem("a", ({"role": "user", "content": "q"},), meta={"messages": [], "prompt": "other", "day": Path("x")})
    row = json.loads(json.dumps(row_of(one), default=str))
    assert row == {"id": "a", "prompt": "q", "day": "x"}


def test_a_file_of_rows_loads_and_strange_text_survives(tmp_path):
    texts = ["é\u2028", "a\x00b", "\ud800"]
    made = [Problem(str(i), ({"role": "user", "content": "q"},), meta={"t": t}) for i, t in enumerate(texts)]
    assert write_rows(tmp_path / "out.jsonl", map(row_of, made)) == 3
    found = data.load(str(tmp_path / "out.jsonl"), "train").problems
    assert [problem.meta["t"] for problem in found] == texts
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    out = tmp_path / "out.jsonl"
    write_rows(out, [{"a": 1}])

    def breaks():
        yield {"a": 2}
        raise OSError(28, "No space left on device")

    def refuses():
        yield {"a": 3}
        raise UserError("bad row")

    def ends():
        yield {"a": 4}
        raise KeyboardInterrupt

    with pytest.raises(RunError, match=r"was not written \(the disk is full"):
        write_rows(out, breaks())
    with pytest.raises(KeyboardInterrupt):
        write_rows(out, ends())
    with pytest.raises(UserError, match="bad row"):
        write_rows(out, refuses())
    assert out.read_text() == '{"a": 1}\n' and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("out.parquet", "must end in .jsonl"), ("no/out.jsonl", "a folder that exists"), ("d.jsonl", "must be a file")],
)
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path, name, sentence):
    (tmp_path / "d.jsonl").mkdir()
    check_out(tmp_path / "fine.jsonl", "tasks:chain")
    with pytest.raises(UserError, match=sentence):
        check_out(tmp_path / name, "tasks:chain")


@pytest.mark.parametrize(
    "source",
    ["{}", "steps:{}?targets=all&held=0.1", "{}?rows=0:5", "gsm8k:{}", "steps:gsm8k:{}?rows=1:2", "{link}", "{dots}"],
)
def test_a_file_that_is_read_is_not_written_over(tmp_path, source):
    read, link, other = tmp_path / "in.jsonl", tmp_path / "link.jsonl", tmp_path / "other.jsonl"
    link.symlink_to(read)
    source = source.format(read, link=link, dots=tmp_path / "." / ".." / tmp_path.name / "in.jsonl")
    check_out(other, source, report=tmp_path / "report.jsonl", kept=None)
    for path in (read, link):
        with pytest.raises(UserError, match=rf"^--out {path} is a file that is read or written already: name another"):
            check_out(path, source)
        with pytest.raises(UserError, match=rf"^--report {path} is a file that is read or written already"):
            check_out(other, source, report=path)
    with pytest.raises(UserError, match=rf"^--kept {other} is"):
        check_out(other, source, report=tmp_path / "report.jsonl", kept=other)


def test_a_source_that_is_no_file_forbids_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("tasks:chain", "hf:owner/name", "steps:tasks:chain?n=3", "gsm8k", "x:in.jsonl"):
        check_out(Path("in.jsonl"), source)
