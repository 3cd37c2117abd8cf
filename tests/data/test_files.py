"""Local files in every packing we read, and one sentence for every way they can be bad."""

import gzip
import json
import lzma

import pytest

from superrl.data.files import Row, is_file_name, read_rows
from superrl.errors import UserError

ROWS = [{"prompt": "2+2", "answer": "4"}, {"prompt": "naïve – 5×5", "answer": "25"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path, text):
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.json", "a.ndjson"])
def test_every_packing_gives_the_same_rows(tmp_path, name):
    path = write(tmp_path / name, LINES)
    assert read_rows(path) == [Row(row, path, number) for number, row in enumerate(ROWS, start=1)]


def test_a_json_array_and_parquet_count_their_items(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    array = write(tmp_path / "a.json", json.dumps(ROWS, indent=2))
    table = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), table)
    for path in (array, table):
        assert read_rows(path) == [Row(row, path, number) for number, row in enumerate(ROWS, start=1)]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    path = write(tmp_path / "a.jsonl", "\ufeff\n" + LINES.replace("\n", "\n\n"))
    assert [(row.values["answer"], row.number) for row in read_rows(path)] == [("4", 2), ("25", 4)]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b"\n \n", "holds no rows"),
        (
            "a.jsonl",
            b'{"prompt": "x"}\n{"prompt": \n',
            r"a\.jsonl, line 2 is not valid JSON .*repair or remove the line",
        ),
        ("a.jsonl", b'{"prompt": "x"}\n["x"]\n', "line 2 is a list, not an object"),
        ("a.jsonl", b'"x"\n', "line 1 is text, not an object"),
        ("a.json", b'[{"prompt": "x"}, null]', "item 2 is null, not an object"),
        ("a.json", b'[{"prompt": "x"},', r"a\.json is not valid JSON"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', "is not UTF-8 text .* at byte 12"),
        ("a.jsonl.gz", b"plainly not packed", "cannot be read: .*check that the file is complete"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], "cannot be read: .*the file is complete"),
        ("a.jsonl.xz", b"plainly not packed", "cannot be read"),
        ("a.parquet", b"plainly not parquet", "is not a parquet file"),
        ("a.csv", b"prompt,answer\n", r"not a kind of file superrl reads: give one that ends in \.jsonl"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, content, sentence):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_rows(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_its_neighbours(tmp_path):
    write(tmp_path / "train.jsonl", LINES)
    with pytest.raises(UserError, match=r"there is no file .*trian\.jsonl: in .* there are train\.jsonl"):
        read_rows(str(tmp_path / "trian.jsonl"))
    with pytest.raises(UserError, match=r"the folder .*nowhere does not exist either"):
        read_rows(str(tmp_path / "nowhere" / "a.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data file"):
        read_rows(str(tmp_path / "empty" / "a.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_rows(str(tmp_path / "folder.jsonl"))


def test_what_reads_as_a_file_name():
    assert is_file_name("x.jsonl.xz") and is_file_name("x.parquet")
    assert not is_file_name("gsm8k") and not is_file_name("x.csv")
