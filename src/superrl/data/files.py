"""Rows of a local file: JSON lines (plain, .gz or .xz), one JSON array, one JSON object (a `.traj`), or parquet.

Every way a file can be bad ends in one sentence that names the file, the line and what to do.
"""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from superrl.errors import UserError

WHOLE_SUFFIXES = (".json", ".traj")
"""Files that may hold a single object, on as many lines as it likes."""
JSON_SUFFIXES = (".jsonl", ".ndjson", *WHOLE_SUFFIXES)
PACKED = ("", ".gz", ".xz")
SUFFIXES = (*(name + packed for name in JSON_SUFFIXES for packed in PACKED), ".parquet")


class Row(NamedTuple):
    """One row and where it stands: `source` and `number` as a person would point at it."""

    values: dict[str, Any]
    source: str
    number: int

    @property
    def where(self) -> str:
        """`file, line n`: the opening words of every sentence about this row."""
        return f"{self.source}, line {self.number}"


def is_file_name(name: str) -> bool:
    """Whether a source's name reads as a file we know."""
    return name.endswith(SUFFIXES)


def read_rows(name: str) -> list[Row]:
    """All rows of a file, in order."""
    path = Path(name).expanduser()
    if not is_file_name(name):
        raise UserError(f"{name} is not a kind of file superrl reads: give one that ends in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"{name} is a folder: name the file inside it")
    if not path.exists():
        raise UserError(f"there is no file {name}{_neighbours(path)}")
    try:
        rows = _parquet(path, name) if name.endswith(".parquet") else list(_json_rows(path, name))
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{name} cannot be read: {error}; check that the file is complete and readable") from None
    if not rows:
        raise UserError(f"{name} holds no rows: give a file with at least one")
    return rows


def _json_rows(path: Path, name: str) -> Iterator[Row]:
    with _open(path) as lines:
        first = next((line for line in iter(lines.readline, "") if line.strip()), "")
        lines.seek(0)
        if first.lstrip().startswith("["):
            yield from _array(lines.read(), name)
            return
        if name.removesuffix(".gz").removesuffix(".xz").endswith(WHOLE_SUFFIXES) and not _is_json(first):
            yield Row(_one_object(lines.read(), name), name, 1)
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Row(_object(line, name, number), name, number)


def _array(text: str, name: str) -> Iterator[Row]:
    """A JSON array of objects; `number` counts its items."""
    try:
        items = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name} is not valid JSON ({error}): repair it, or write one object a line") from None
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise UserError(f"{name}, item {number} is {kind(item)}, not an object: every row is {{...}}")
        yield Row(item, name, number)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _one_object(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name} is not valid JSON ({error}): repair it, or write one object a line") from None
    if not isinstance(value, dict):
        raise UserError(f"{name} holds {kind(value)}, not an object or rows of them: is it the right file?")
    return value


def _object(line: str, name: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{name}, line {number} is not valid JSON ({error}): repair or remove the line") from None
    if not isinstance(value, dict):
        raise UserError(f"{name}, line {number} is {kind(value)}, not an object: a row is {{...}} on one line")
    return value


def kind(value: object) -> str:
    """A value's JSON type, for a sentence."""
    names = {
        type(None): "null",
        str: "text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _parquet(path: Path, name: str) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"reading {name} needs pyarrow: pip install 'superrl[data]'") from None
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{name} is not a parquet file ({str(error).splitlines()[0]}): write it again") from None
    return [Row(values, name, number) for number, values in enumerate(table.to_pylist(), start=1)]


def _neighbours(path: Path) -> str:
    """What files of a kind we read lie beside a missing one, so that a typo is found at once."""
    if not path.parent.is_dir():
        return f": the folder {path.parent} does not exist either"
    beside = sorted(entry.name for entry in path.parent.iterdir() if is_file_name(entry.name))
    folder = path.parent.resolve()
    return f": in {folder} there are {', '.join(beside[:5])}" if beside else f": the folder {folder} holds no data file"
