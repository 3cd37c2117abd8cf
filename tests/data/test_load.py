"""`load` finds the reader of every kind of source and joins several."""

import json

import pytest

from superrl import data
from superrl.errors import UserError


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def five(tmp_path):
    return write(tmp_path / "five.jsonl", *({"id": str(i), "prompt": f"{i}+{i}=", "answer": 2 * i} for i in range(5)))


def test_a_file_brings_no_defaults_and_a_task_does(five):
    assert data.load(five, "train").defaults == {}
    made = data.load("tasks:chain?n=4", "train")
    assert len(made.problems) == 4 and set(made.defaults) == {"prompt", "reward", "max_new_tokens"}


def test_the_split_reaches_the_task():
    train, test = (data.load("tasks:chain?n=8", split).problems for split in ("train", "test"))
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in test}


@pytest.mark.parametrize(
    ("rows", "ids"), [("0:2", "01"), ("3:", "34"), ("-2:", "34"), (":-4", "0"), ("1:4", "123"), (":", "01234")]
)
def test_rows_are_sliced_as_in_python(five, rows, ids):
    assert [problem.id for problem in data.load(f"{five}?rows={rows}", "train").problems] == list(ids)


def test_sources_are_joined_in_order_with_what_they_agree_on(five):
    both = data.load([five, "tasks:chain?n=2"], "train")
    assert [p.id for p in both.problems[:5]] == list("01234") and len(both.problems) == 7
    assert both.defaults == {} and both.disagree == ("prompt", "reward", "max_new_tokens")
    short, long = (data.load(f"tasks:chain?n=2&ops={ops}", "train").defaults["max_new_tokens"] for ops in (1, 6))
    same = data.load(["tasks:chain?n=2&ops=1", "tasks:chain?n=2&ops=6"], "train")
    assert short < long and same.defaults["max_new_tokens"] == long and same.disagree == ()


def test_sources_that_bring_different_rewards_leave_the_choice_open(tmp_path):
    sums = write(tmp_path / "g.jsonl", {"question": "1+1?", "answer": "#### 2"})
    mixed = data.load([f"gsm8k:{sums}", "tasks:chain?n=2"], "train")
    assert set(mixed.disagree) == {"prompt", "reward"} and set(mixed.defaults) == {"max_new_tokens"}


def test_dropped_demonstrations_are_counted_over_all_sources(tmp_path):
    first = write(tmp_path / "a.jsonl", {"prompt": "q", "completion": " "})
    second = write(tmp_path / "b.jsonl", {"prompt": "q", "completion": ""})
    assert data.load([first, second], "train").dropped == {"empty": 2}
    assert data.load(write(tmp_path / "c.jsonl", {"prompt": "q"}), "train").dropped == {}


def test_an_id_may_stand_only_once(tmp_path, five):
    twice = write(tmp_path / "twice.jsonl", {"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"})
    with pytest.raises(UserError, match=r"the id 'x' stands twice in .*twice\.jsonl: give every row an `id`"):
        data.load(twice, "train")
    with pytest.raises(UserError, match=r"the id '0' stands in .*five\.jsonl and again in .*other\.jsonl"):
        data.load([five, write(tmp_path / "other.jsonl", {"id": 0, "prompt": "a"})], "train")
    unnamed = [write(tmp_path / folder / "a.jsonl", {"prompt": "a"}) for folder in ("x", "y")]
    assert [problem.id for problem in data.load(unnamed, "train").problems] == ["x/a.jsonl:1", "y/a.jsonl:1"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ([], "no data is named for train"),
        ("gsm9k", "'gsm9k' is no source of data: .*did you mean 'gsm8k'"),
        ("./rows.csv", "not a kind of file superrl reads"),
        ("FILE?row=0:2", "unknown parameter 'row': did you mean 'rows'"),
        ("FILE?rows=2", "rows must read START:STOP"),
        ("FILE?rows=a:b", "rows must read START:STOP"),
        ("FILE?rows=9:", "chooses none of its 5 rows"),
        ("FILE?rows=", "where one key=value is expected"),
        ("FILE?rows=0:1&rows=0:2", "where one key=value is expected"),
        ("FILE?paragraphs=2", "unknown parameter 'paragraphs'"),
        ("gsm8k:FILE?split=train", "unknown parameter 'split'"),
        ("hotpotqa:FILE?paragraphs=0", "has no column `question`"),
        (
            "hotpotqa",
            r"hotpotqa has no test split, only train and validation: hold rows out, as in hotpotqa\?split=train",
        ),
    ],
)
def test_a_source_nobody_reads_is_one_sentence(five, source, sentence):
    split = "test" if source == "hotpotqa" else "train"
    with pytest.raises(UserError, match=sentence):
        data.load(source.replace("FILE", five) if isinstance(source, str) else source, split)


def test_hub_rows_come_through_datasets(tmp_path, monkeypatch):
    """A local folder stands in for a dataset on the hub: the same call, without a network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "set" / "train.jsonl", *({"prompt": f"q{i}", "answer": str(i)} for i in range(4)))
    write(tmp_path / "set" / "test.jsonl", {"prompt": "t", "answer": "0"})
    name = f"hf:{tmp_path / 'set'}"
    assert [problem.answer for problem in data.load(name, "train").problems] == ["0", "1", "2", "3"]
    assert [problem.prompt for problem in data.load(f"{name}?rows=2:", "train").problems] == ["q2", "q3"]
    (only,) = data.load(f"{name}?split=test", "train").problems
    assert only.prompt == "t" and only.id.endswith("set?split=test:1")
    with pytest.raises(UserError, match=r"cannot be loaded: .*check the name and the network"):
        data.load(f"{name}?split=nothing", "train")


def test_without_the_extra_the_sentence_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"hf:a/b\?split=train needs the package datasets: pip install 'superrl\[data\]'"
    ):
        data.load("hf:a/b", "train")
    with pytest.raises(UserError, match=r"openai/gsm8k\?split=test&config=main needs the package datasets"):
        data.load("gsm8k", "test")
