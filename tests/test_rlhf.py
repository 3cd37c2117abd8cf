"""RLHF as a run: the reward model is written for everybody, the next stage reads it, and a resumed run is the same."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from small_runs import Ends, checkpoints, differences, recipe, rows, small_model
from superrl import models
from superrl.config import Recipe
from superrl.errors import Interrupted, UserError
from superrl.evaluation import evaluate_model
from superrl.learner.learner import Learner
from superrl.methods.hooks import CriticOptions, ended
from superrl.persistence import save_classifier
from superrl.runfolder import RunFolder
from superrl.setup import build
from superrl.training import train

EXACT = {"name": "exact", "after": "#"}
SFT = {"name": "sft", "method": {"name": "sft"}, "steps": 1, "reward": EXACT}
JUDGE = {"name": "judge", "method": {"name": "reward-model", "lr": 1e-2}, "steps": 2, "reward": EXACT}
PPO = {"name": "ppo", "method": {"name": "ppo", "kl": {"in": "reward"}, "critic": {"lr": 1e-2}}, "steps": 2}
READS = {**PPO, "reward": {"name": "model", "path": "run:reward-model"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def rlhf(model: Path, /, *stages: dict[str, Any], **keys: Any) -> Recipe:
    evaluation = {"every": 2, "reward": EXACT}
    return recipe(model, *(stages or (SFT, JUDGE, READS)), **{"evaluation": evaluation, **keys})


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(rlhf(model, checkpoint={"every": 1, "keep": 9}), tmp_path_factory.mktemp("run") / "whole")


def test_stopped_after_every_step_it_is_the_same_run(model: Path, whole: Path, tmp_path: Path) -> None:
    settings, parts = rlhf(model, checkpoint={"every": 1, "keep": 9}), tmp_path / "parts"
    for stopped in range(settings.steps):
        with pytest.raises(Interrupted):
            train(settings, parts, progress=Ends(1, by=signal.SIGTERM, kind="step"), resume=stopped > 0)
    train(settings, parts, resume=True)
    assert differences(whole, parts) == []
    files = sorted(path.name for path in (whole / "reward-model").iterdir())
    assert "model.safetensors" in files and "tokenizer.json" in files
    for name in files:
        assert (whole / "reward-model" / name).read_bytes() == (parts / "reward-model" / name).read_bytes()


def test_the_policy_rests_while_its_judge_learns(whole: Path) -> None:
    began, first, ended_ = (load_file(p / "model.safetensors") for p in checkpoints(whole)[:3])
    assert all(began[name].equal(first[name]) and began[name].equal(ended_[name]) for name in began)
    told = [row for row in rows(whole) if row["stage"] == "judge"]
    assert all(row["method/pairs"] > 0 and row["grad_norm"] is None for row in told)
    assert told[0]["loss/value"] == pytest.approx(0.693147, abs=1e-5) and told[0]["method/margin"] == 0.0
    assert told[1]["method/margin"] != 0.0
    assert all(row["length/demonstration"] is None for row in told)


def test_the_stage_after_it_is_paid_by_it_and_evaluated_by_the_task(whole: Path) -> None:
    rewards = [row["reward/mean"] for row in rows(whole) if row["stage"] == "ppo"]
    assert len(rewards) == 2 and all(r not in (0.0, 1.0) for r in rewards)
    assert all(row["reward/correct"] is None for row in rows(whole) if row["stage"] == "ppo")
    assert all(row["accuracy"] is not None for row in rows(whole, "evaluations.jsonl"))


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["whole", "lora"])
def test_what_was_written_scores_as_the_critic_does(lora: dict[str, int] | None, model: Path, tmp_path: Path) -> None:
    """Loaded by transformers alone, padded on the right or not, less the bias that a classifier has no place for."""
    settings = rlhf(model, JUDGE, model={"name": str(model), "dtype": "float32", "lora": lora})
    session = build(settings)
    stage = session.stages[0]
    learner = Learner(session.model, torch.float32, stage.schedule)
    learner.begin(stage.schedule, CriticOptions(kind="model"))
    critic = learner.critic
    assert critic is not None
    with torch.no_grad():
        for i, (_, parameter) in enumerate(critic.parameters()):
            draw = torch.Generator().manual_seed(i)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    groups = learner.annotate([g for g in stage.groups if g.demonstrations], frozenset({"end_value"}))
    texts = [d for group in groups for d in group.demonstrations]
    expected = [d.annotations["end_value"][-1] - float(critic.head.bias.detach()) for d in texts]
    save_classifier(RunFolder(tmp_path), learner, session.tokenizer, "judge")
    assert [path.name for path in tmp_path.iterdir()] == ["judge"]
    judge = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "judge")
    assert judge.config.num_labels == 1 and judge.dtype == torch.float32
    rows_ = [ended(d, d.tokens[-1]) for d in texts]
    width = max(map(len, rows_)) + 3
    padded = torch.tensor([[*row, *[tokenizer.pad_token_id] * (width - len(row))] for row in rows_])
    with torch.no_grad():
        together = judge(padded, attention_mask=(padded != tokenizer.pad_token_id).long()).logits[:, 0].tolist()
        alone = [float(judge(torch.tensor([row])).logits[0, 0]) for row in rows_]
    assert together == pytest.approx(expected, abs=1e-5) and alone == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in expected}) == len(expected)
    scored = build(rlhf(model, JUDGE, {**PPO, "reward": {"name": f"model:{tmp_path / 'judge'}"}})).stages[1]
    found = {d.text: d.score.value for g in scored.groups for d in g.demonstrations if d.score}
    assert [found[d.text] for d in texts] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "gemma2"])
def test_a_family_with_a_classifier_is_served(kind: str, tmp_path: Path) -> None:
    made = models.classifier_of(models.load_model(rlhf(small_model(tmp_path, kind), SFT).model))
    assert made[1] == "score.weight"


def test_a_family_without_a_classifier_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^transformers has no sequence classifier for this model \("):
        train(rlhf(small_model(tmp_path / "model", "cohere"), JUDGE), tmp_path / "run")


@pytest.mark.parametrize(
    ("stages", "keys", "sentence"),
    [
        ([SFT, READS], {}, r"stages\.1\.reward: no stage before it writes run:reward-model; put one with method: "),
        ([READS, JUDGE], {}, r"stages\.0\.reward: no stage before it writes run:reward-model"),
        ([JUDGE, READS], {"evaluation": {"every": 2}}, r"evaluation\.reward: run:reward-model is not there yet"),
        ([{**JUDGE, "reward": {"name": "exact", "weight": 1.0, "colour": 1}}], {}, "has no option 'colour'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    stages: list[dict[str, Any]], keys: dict[str, Any], sentence: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(rlhf(model, *stages, **keys), tmp_path / "run")


def test_a_finished_run_is_evaluated_as_it_evaluated_itself_or_by_its_judge(whole: Path) -> None:
    task = "tasks:chain?order=right&ops=1&n=2"
    assert evaluate_model(str(whole), task)["accuracy"] is not None
    found = evaluate_model(str(whole), task, reward={"name": "model:run:reward-model"})
    assert found["accuracy"] is None and found["reward"] not in (0.0, 1.0)


def test_a_run_whose_judge_was_removed_says_so(model: Path, whole: Path, tmp_path: Path) -> None:
    settings, parts = rlhf(model), tmp_path / "parts"
    with pytest.raises(Interrupted):
        train(settings, parts, progress=Ends(4, by=signal.SIGTERM, kind="step"))
    (parts / "reward-model").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"reward-model is not there: a stage with method: \{name: reward-model\} writes"
    ):
        train(settings, parts, resume=True)
    (tmp_path / "elsewhere").rename(parts / "reward-model")
    train(settings, parts, resume=True)
    assert json.loads((parts / "summary.json").read_text())["steps"] == settings.steps
