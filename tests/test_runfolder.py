"""The run folder: rows are whole or not there, and a resumed run gets back exactly what its checkpoint saw."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_runs import recipe
from superrl.errors import RunError, UserError
from superrl.runfolder import RunFolder, changed_key, create, default_path, reopen


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file may grow beyond so many bytes: a disk that is full for this test alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    yield 64
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = [{"text": "line\u2028break\x85 é 中", "none": None, "x": 1 / 3}, {"text": ""}]
    folder.append("rollouts.jsonl", *rows)
    folder.append("rollouts.jsonl")
    assert folder.rows("rollouts.jsonl") == rows and folder.rows("metrics.jsonl") == []
    assert folder.lengths()["rollouts.jsonl"] == len((tmp_path / "rollouts.jsonl").read_bytes())
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write('{"cut": ')
    assert folder.rows("rollouts.jsonl") == rows, "a line that a crash cut in half is none"
    with pytest.raises(ValueError, match="JSON"):
        folder.append("metrics.jsonl", {"loss": float("nan")})


def test_a_row_that_does_not_fit_on_the_disk_leaves_none_of_it(tmp_path: Path, small_files: int) -> None:
    folder = RunFolder(tmp_path)
    folder.append("metrics.jsonl", {"step": 1})
    with pytest.raises(RunError, match=r"metrics.jsonl cannot be written \(File too large\); checkpoints are whole"):
        folder.append("metrics.jsonl", {"step": 2}, {"text": "x" * small_files})
    assert folder.rows("metrics.jsonl") == [{"step": 1}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"the disk is full, so .*metrics.jsonl was not written; .* then --resume"):
        RunFolder(tmp_path).append("metrics.jsonl", {"step": 1})


def test_truncating_gives_back_what_a_checkpoint_saw(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append("metrics.jsonl", {"step": 1})
    seen = folder.lengths()
    folder.append("metrics.jsonl", {"step": 2})
    folder.append("timing.jsonl", {"step": 2})
    folder.truncate(seen)
    assert folder.rows("metrics.jsonl") == [{"step": 1}] and folder.lengths() == seen
    folder.truncate({})
    assert folder.lengths()["metrics.jsonl"] == 0


def test_rows_that_a_checkpoint_saw_and_that_are_gone_are_missed(tmp_path: Path) -> None:
    """Truncating would fill the file up with zeros."""
    folder = RunFolder(tmp_path)
    folder.append("evaluations.jsonl", {"step": 1})
    with pytest.raises(RunError, match=r"metrics.jsonl has 0 bytes, but the checkpoint to resume from saw 9"):
        folder.truncate({"evaluations.jsonl": 0, "metrics.jsonl": 9})
    assert folder.rows("evaluations.jsonl") == [{"step": 1}], "nothing was cut"
    folder.truncate({"evaluations.jsonl": 5, "timing.jsonl": 9})
    assert not (tmp_path / "timing.jsonl").exists(), "clocks may be lost"


def test_a_folder_is_a_run_s_once_its_recipe_is_written(tmp_path: Path) -> None:
    settings = recipe("model")
    folder = create(tmp_path / "a" / "b")
    assert create(folder.path).path == folder.path and list(folder.path.iterdir()) == []
    folder.write_recipe(settings)
    with pytest.raises(UserError, match="already holds a run"):
        create(folder.path)
    assert reopen(folder.path, settings).path == folder.path
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


def test_the_first_changed_key_is_named() -> None:
    a = recipe("model").dump()
    assert changed_key(a, recipe("model", {"steps": 9}, evaluation={"every": 7}, checkpoint={}, log={}).dump()) is None
    assert changed_key(a, recipe("model", {"optimizer": {"lr": 1.0}}).dump()) == "stages.0.optimizer.lr"
    assert changed_key(a, recipe("other").dump()) == "model.name"
    assert changed_key(a, recipe("model", {}, {"name": "b"}).dump()) == "stages"
    assert changed_key(a, recipe("model", {"method": {"name": "superrl", "inner": "mean"}}).dump()) == (
        "stages.0.method.inner"
    )


def test_two_runs_of_one_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = default_path("recipes/default.yaml")
    assert first.parts[0] == "runs" and first.name.startswith("default-")
    os.makedirs(first)
    assert default_path("recipes/default.yaml") != first
