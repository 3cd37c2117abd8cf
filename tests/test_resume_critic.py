"""A stage with a critic or a reference policy, interrupted and resumed, is the same run, byte for byte."""

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from small_methods import NAME
from small_runs import Ends, Killed, checkpoints, differences, recipe, rows, run, small_model
from superrl.config import Recipe
from superrl.errors import Interrupted, RunError

SFT = {"name": "sft", "method": {"name": "sft"}, "steps": 1}


def watched(kind: str | None = None, *, reference: bool = False, warmup: int = 0, **keys: Any) -> dict[str, Any]:
    critic = {"critic": {"kind": kind, "lr": 1e-2, "warmup_steps": warmup}} if kind else {}
    return {"method": {"name": NAME, "reference": reference, **critic}, "steps": 2, **keys}


VARIANTS: Mapping[str, list[dict[str, Any]]] = {
    "head": [watched("head", warmup=1, mini_batches=2, steps=3)],
    "model, reference": [SFT, watched("model", reference=True, **{"from": "best"})],
    "two critics": [watched("model", reference=True), watched("head", reference=True, name="b")],
    "model, lora": [watched("model", reference=True)],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def variant(name: str, model: Path, **keys: Any) -> Recipe:
    named = {"name": str(model), "dtype": "float32"} | ({"lora": {"rank": 2}} if name.endswith("lora") else {})
    return recipe(model, *VARIANTS[name], model=named, **keys)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_stopped_after_every_step_is_the_same_run(name: str, model: Path, tmp_path: Path) -> None:
    settings = variant(name, model, evaluation={"every": 2})
    whole, parts = run(settings, tmp_path / "whole"), tmp_path / "parts"
    for stopped in range(settings.steps):
        with pytest.raises(Interrupted):
            run(settings, parts, Ends(1, by=signal.SIGTERM, kind="step"), resume=stopped > 0)
    run(settings, parts, resume=True)
    assert differences(whole, parts) == []


def test_what_the_runs_above_hold(model: Path, tmp_path: Path) -> None:
    """Otherwise equal bytes would prove nothing."""
    settings = variant("two critics", model, evaluation={"every": 0}, checkpoint={"every": 1, "keep": 9})
    folder = run(settings, tmp_path / "run")
    stored = [load_file(path / "trainer.safetensors") for path in checkpoints(folder)]
    for one, has_trunk in zip(stored, (True, True, False, False), strict=True):
        assert any(name.startswith("critic/weights/trunk.") for name in one) is has_trunk
        assert one["critic/weights/head.weight"].any() and one["critic/optimizer/head.weight/exp_avg"].any()
    assert [row["method/critic_grad_norm"] > 0 for row in rows(folder)] == [True] * 4
    assert [row["loss/value"] > 0 for row in rows(folder)] == [True] * 4
    began = [load_file(path / "model.safetensors") for path in sorted((folder / "reference").iterdir())]
    ended = [load_file(path / "model.safetensors") for path in [model, checkpoints(folder)[1]]]
    for reference, weights in zip(began, ended, strict=True):
        assert reference.keys() == weights.keys() and all(reference[n].equal(weights[n]) for n in weights)


def test_the_policy_rests_while_its_critic_warms_up(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, watched("model", warmup=1), checkpoint={"every": 1, "keep": 2})
    folder = run(settings, tmp_path / "run")
    began, first, second = (load_file(path / "model.safetensors") for path in [model, *checkpoints(folder)])
    assert all(began[name].equal(first[name]) for name in began)
    assert any(not first[name].equal(second[name]) for name in first)
    assert [row["grad_norm"] is None for row in rows(folder)] == [True, False]


def test_a_reference_is_removed_once_no_checkpoint_needs_it(model: Path, tmp_path: Path) -> None:
    settings = variant("two critics", model, evaluation={"every": 0}, checkpoint={"every": 1, "keep": 1})
    folder = run(settings, tmp_path / "run")
    assert [path.name for path in (folder / "reference").iterdir()] == ["step-00000002"]


def cut_off(settings: Recipe, folder: Path) -> Path:
    """A run killed in its second stage, after a checkpoint of it."""
    with pytest.raises(Killed):
        run(settings, folder, Ends(4, by=Killed(), kind="step"))
    assert [path.name for path in checkpoints(folder)][-1] == "step-00000003"
    return folder


def test_a_checkpoint_of_the_stage_before_still_finds_its_reference(model: Path, tmp_path: Path) -> None:
    settings = variant("two critics", model, evaluation={"every": 0}, checkpoint={"every": 1, "keep": 2})
    whole, parts = run(settings, tmp_path / "whole"), cut_off(settings, tmp_path / "parts")
    (checkpoints(parts)[-1] / "trainer.json").write_text("{")
    progress = Ends()
    run(settings, parts, progress, resume=True)
    assert "resuming after step 2" in progress.notes
    assert differences(whole, parts) == []


@pytest.mark.parametrize("harm", ["flipped", "cut short", "missing"])
def test_a_reference_that_is_not_whole_stops_the_resume_in_a_sentence(harm: str, model: Path, tmp_path: Path) -> None:
    settings = variant("two critics", model, evaluation={"every": 0}, checkpoint={"every": 1, "keep": 2})
    whole, parts = run(settings, tmp_path / "whole"), cut_off(settings, tmp_path / "parts")
    reference = parts / "reference" / "step-00000002"
    kept = Path(shutil.copytree(reference, tmp_path / "kept"))
    file = reference / "model.safetensors"
    content = bytearray(file.read_bytes())
    if harm == "flipped":
        content[-3] ^= 1
        file.write_bytes(content)
    elif harm == "cut short":
        file.write_bytes(content[:-1])
    else:
        shutil.rmtree(reference)
    before = rows(parts)
    with pytest.raises(RunError, match=r"^the reference policy in .*reference/step-00000002 is damaged \(.*\), and "
                                       r"nothing was changed: put it back as it was, or start a new run$"):  # fmt: skip
        run(settings, parts, resume=True)
    assert rows(parts) == before
    shutil.rmtree(reference, ignore_errors=True)
    shutil.copytree(kept, reference)
    run(settings, parts, resume=True)
    assert differences(whole, parts) == []


def test_killed_while_a_reference_is_written_it_is_written_again(model: Path, tmp_path: Path) -> None:
    settings = variant("model, reference", model)
    whole, parts = run(settings, tmp_path / "whole"), tmp_path / "parts"
    with pytest.raises(Killed):
        run(settings, parts, Ends(2, by=Killed(), kind="step"))
    partial = parts / "reference" / "step-00000001.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    run(settings, parts, resume=True)
    assert differences(whole, parts) == []
    assert [path.name for path in (parts / "reference").iterdir()] == ["step-00000001"]
