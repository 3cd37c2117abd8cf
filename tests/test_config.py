"""Recipes: what is refused and how it is said, overrides, and the round trip through config.yaml."""

from pathlib import Path
from typing import Any

import pytest

from small_runs import recipe
from superrl.config import Recipe, load, parse, shipped
from superrl.errors import UserError

BARE: dict[str, Any] = {"data": {"train": "x.jsonl"}, "stages": [{"name": "a", "method": {"name": "grpo"}, "steps": 1}]}


def bare(stage: dict[str, Any], **keys: Any) -> Recipe:
    """BARE with one stage changed and top-level keys added."""
    return parse({**BARE, "stages": [{**BARE["stages"][0], **stage}], **keys})


@pytest.mark.parametrize(
    ("stage", "keys", "sentence"),
    [
        ({}, {"seed": "3"}, "seed: input should be an integer, got '3'"),
        ({}, {"seed": True}, "seed: input should be an integer, got True"),
        ({}, {"seed": -1}, "seed: input should be greater than or equal to 0, got -1"),
        ({"steps": 3.5}, {}, "stages.0.steps: input should be an integer, got 3.5"),
        ({"truncation": {"top_p": 0.9}}, {}, "stages.0.truncation: the learner's distribution is not truncated"),
        ({"truncation": {"biased": True}}, {}, "stages.0.truncation: name at least one of top_k, top_p and min_p"),
        ({}, {"evaluation": {"truncation": {"top_p": 0.9}}}, "evaluation: truncation changes nothing at temperature 0"),
        ({}, {"evaluation": {"truncation": {"topp": 0.9}}}, "'evaluation.truncation.topp'; did you mean 'top_p'?"),
        (
            {},
            {"evaluation": {"truncation": {"top_p": 0.0}}},
            "evaluation.truncation.top_p: input should be greater",
        ),
        ({"optimizer": {"lr": float("nan")}}, {}, "stages.0.optimizer.lr: input should be a finite number"),
        ({"optimizer": {"betas": [0.9]}}, {}, "'stages.0.optimizer.betas.1' is missing"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, {}, "stages.0.optimizer.betas.1: input should be less than 1, got 1.0"),
        ({"reward": 3}, {}, "stages.0.reward: input should be a mapping {key: value}, got 3"),
        ({"reward": [3]}, {}, "stages.0.reward.0: input should be a mapping {key: value}, got 3"),
        ({"method": None}, {}, "stages.0.method: input should be a mapping {key: value}, got None"),
        ({"prompt": {"template": "no slot"}}, {}, "stages.0.prompt: template must contain {prompt}"),
        ({"from": "bset"}, {}, "stages.0.from: input should be 'previous', 'best', 'last' or 'initial', got 'bset'"),
        ({}, {"data": {"train": ["x", 5]}}, "data.train.1: input should be text, got 5"),
        ({}, {"model": "tiny"}, "model: input should be a mapping {key: value}, got 'tiny'"),
        ({}, {"model": {"lora": {"rnak": 3}}}, "unknown key 'model.lora.rnak'; did you mean 'rank'?"),
        ({}, {"stages": {}}, "stages: input should be a list, got {}"),
        ({}, {"stages": []}, "stages: list should have at least 1 item"),
        ({}, {"stages": BARE["stages"] * 2}, "stage names must differ, got ['a', 'a']"),
        ({}, {"log": {"trackers": ["wandbb"]}}, "log.trackers.0: input should be 'tensorboard', 'wandb' or 'trackio'"),
        ({}, {"data": {}}, "'data.train' is missing"),
    ],
)
def test_what_is_refused_and_how_it_is_said(stage: dict[str, Any], keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        bare(stage, **keys)
    assert str(refused.value).startswith("recipe: ") and sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("validated", [False, True])
def test_from_best_needs_a_validation(validated: bool) -> None:
    stages = [*BARE["stages"], {**BARE["stages"][0], "name": "b", "from": "best"}]
    data = {"train": "x.jsonl", "validation": "y.jsonl"}
    if validated:
        assert parse({"data": data, "stages": stages}).stages[1].from_ == "best"
        return
    for keys in ({"data": BARE["data"]}, {"data": data, "evaluation": {"every": 0}}):
        with pytest.raises(UserError, match=r"stages\.1\.from: best reads validation"):
            parse({"stages": stages, **keys})


def test_every_shipped_recipe_parses_and_survives_its_own_text(tmp_path: Path) -> None:
    assert "default" in shipped()
    for name in shipped():
        path = tmp_path / f"{name}.yaml"
        path.write_text(load(name).text(), encoding="utf-8")
        assert load(path) == load(name)


def test_texts_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    settings = recipe("model", {"stop": ["1e5", "1.5", ".5", "007", "yes", "null", "é\u2028"]})
    path = tmp_path / "config.yaml"
    path.write_text(settings.text(), encoding="utf-8")
    assert load(path) == settings


def test_overrides_reach_into_lists_by_number_and_name_and_the_last_wins() -> None:
    settings = load("default", ["stages.0.steps=3", "stages.superrl.steps=4", "stages.0.optimizer.lr=1e-6", "seed=7"])
    assert (settings.stages[0].steps, settings.stages[0].optimizer.lr, settings.seed) == (4, 1e-6, 7)
    assert load("default", ["data.test.0=x.jsonl"]).data.test == ["x.jsonl"]
    assert load("default", ["model.lora.rank=4"]).model.lora is not None
    assert load("default", ["stages.0.refill={keep: solved}"]).stages[0].refill is not None


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    texts = {"empty": "", "list": "- 1", "broken": "{", "date": "seed: 2024-13-45", "latin": "é"}
    for name, text in texts.items():
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=r"(must be a mapping|is not valid YAML|cannot read the recipe)"):
            load(path)
    with pytest.raises(UserError, match=r"no recipe 'defualt': did you mean 'default'\?"):
        load("defualt")


def test_numbers_keep_their_type() -> None:
    settings = bare({"optimizer": {"lr": 1}}, seed=3)
    assert settings.stages[0].optimizer.lr == 1.0 and settings.stages[0].optimizer.betas == (0.9, 0.95)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 4  # type: ignore[misc]


def test_a_truncation_is_kept_where_it_is_meant() -> None:
    cut = {"top_k": 20, "min_p": 0.05}
    made = bare({"truncation": {**cut, "biased": True}}, evaluation={"temperature": 0.6, "truncation": {"top_p": 0.95}})
    assert made.stages[0].truncation is not None and made.evaluation.truncation is not None
    assert (made.stages[0].truncation.top_k, made.evaluation.truncation.top_p) == (20, 0.95)
    assert parse(made.dump()) == made
