"""The reward `model`: the numbers of the folder it names, however texts are batched, and what it refuses."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from small_runs import small_model
from superrl import rewards
from superrl.config import PromptConfig, parse
from superrl.data import Loaded
from superrl.data.prepare import prepare
from superrl.errors import UserError
from superrl.models import load_tokenizer
from superrl.records import Demonstration, Problem
from superrl.rewards import Scene, model
from superrl.text import Renderer


def classifier(folder: Path, labels: int = 1) -> Path:
    """A small classifier with random weights and the shipped tokenizer."""
    small_model(folder)
    config = AutoConfig.from_pretrained(folder)
    config.num_labels, config.pad_token_id = labels, 0
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("classifier"))


def problem(text: str, *demonstrations: str) -> Problem:
    return Problem(text, ({"role": "user", "content": text},), None, tuple(map(Demonstration, demonstrations)))


PROBLEMS = [problem(f"<{n}+4=") for n in range(1, 8)]
TEXTS = ["7", "2+2=4#4", "", "1" * 30, "3+4=7#7", "#", "3+4=7"]


def test_its_numbers_are_the_classifier_s_on_prompt_completion_and_end_in_the_prompt_of_the_run(folder: Path) -> None:
    scene = Scene(PromptConfig(template="{prompt}3*"), "cpu")
    found = rewards.build(f"model:{folder}", scene=scene).score(PROBLEMS, TEXTS)
    judge = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(str(folder))
    for one, text, score in zip(PROBLEMS, TEXTS, found, strict=True):
        ids = [*tokenizer(one.prompt + "3*")["input_ids"], *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            assert score.value == pytest.approx(float(judge(torch.tensor([ids])).logits[0, 0]), abs=1e-6)
        assert score.correct is None
    assert len({round(score.value, 5) for score in found}) == len(TEXTS)


def test_scores_do_not_depend_on_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rewards.build({"name": "model", "path": str(folder)})
    whole = one.score(PROBLEMS, TEXTS)
    assert whole == one.score(PROBLEMS, TEXTS)
    monkeypatch.setattr(model, "ROWS", 2)
    parts = one.score(PROBLEMS[::-1], TEXTS[::-1])[::-1]
    assert [a.value for a in parts] == pytest.approx([b.value for b in whole], abs=1e-6)
    assert one.score([], []) == []


def test_correct_at_lets_it_judge_and_it_goes_into_a_sum(folder: Path) -> None:
    plain = rewards.build(f"model:{folder}")
    values = [s.value for s in plain.score(PROBLEMS, TEXTS)]
    middle = sorted(values)[3]
    judging = rewards.build({"name": "model", "path": str(folder), "correct_at": middle})
    assert not plain.gives_correct and judging.gives_correct
    assert [s.correct for s in judging.score(PROBLEMS, TEXTS)] == [v >= middle for v in values]
    both = rewards.build([{"name": f"model:{folder}", "weight": 2.0}, {"name": "exact", "after": "#"}])
    summed = both.score(PROBLEMS, TEXTS)
    assert [s.parts["model"] for s in summed] == values
    assert [s.value for s in summed] == pytest.approx(
        [2.0 * v + s.parts["exact"] for v, s in zip(values, summed, strict=True)]
    )


def test_a_run_s_own_model_is_awaited_and_read_only_when_it_is_asked(folder: Path, tmp_path: Path) -> None:
    one = rewards.build("model:run:judge", scene=Scene(folder=tmp_path))
    assert one.awaits == {"judge"} and rewards.build(f"model:{folder}").awaits == frozenset()
    assert rewards.build([{"name": "exact"}, {"name": "model:run:judge"}]).awaits == {"judge"}
    with pytest.raises(
        UserError, match=r"^reward 'model': .*/judge is not there: a stage with method: \{name: judge\} "
    ):
        one.score(PROBLEMS, TEXTS)
    (tmp_path / "judge").symlink_to(folder)
    assert one.score(PROBLEMS, TEXTS) == rewards.build(f"model:{folder}").score(PROBLEMS, TEXTS)
    with pytest.raises(UserError, match="run:judge is a run's folder, and there is no run here"):
        rewards.build("model:run:judge").score(PROBLEMS, TEXTS)


@pytest.mark.parametrize("awaited", [True, False])
def test_demonstrations_are_scored_at_load_unless_the_model_is_still_to_be_trained(folder: Path, awaited: bool) -> None:
    reward = rewards.build("model:run:judge" if awaited else f"model:{folder}")
    renderer = Renderer(load_tokenizer(str(folder)), PromptConfig(), 1)
    loaded = Loaded((problem("<3+4=", "3+4=7#7"),))
    done = prepare(loaded, renderer, reward, max_new_tokens=20, context_length=100, unverified="drop")
    (demonstration,) = done.groups[0].demonstrations
    assert (demonstration.score is None) is awaited


def test_one_model_is_held_for_all_who_read_it_and_a_file_that_changed_is_another(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "judge")
    one, two = rewards.build(f"model:{folder}"), rewards.build(f"model:{folder}")
    before = one.score(PROBLEMS[:1], TEXTS[:1]), two.score(PROBLEMS[:1], TEXTS[:1])
    assert one._scorer is two._scorer is not None and before[0] == before[1]
    judge = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        judge.score.weight.mul_(2.0)
    judge.save_pretrained(folder)
    assert rewards.build(f"model:{folder}").score(PROBLEMS[:1], TEXTS[:1])[0].value == pytest.approx(
        2 * before[0][0].value
    )


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no Hugging Face model folder, it has no config\.json"):
        rewards.build(f"model:{tmp_path}/nothing")
    with pytest.raises(UserError, match="reward 'model', option 'path': Field required"):
        rewards.build("model")
    with pytest.raises(UserError, match=r"has no weights for score\.weight, so it is no reward model"):
        rewards.build(f"model:{small_model(tmp_path / 'policy')}").score(PROBLEMS, TEXTS)
    with pytest.raises(UserError, match="has 3 labels, and a reward is one number"):
        rewards.build(f"model:{classifier(tmp_path / 'three', 3)}").score(PROBLEMS, TEXTS)
    with pytest.raises(UserError, match="reads at most 160 tokens, and a prompt with its completion has 206"):
        rewards.build(f"model:{folder}").score(PROBLEMS[:1], ["1" * 200])


def test_a_recipe_may_write_a_reward_s_name_alone() -> None:
    stage = {"name": "a", "method": {"name": "grpo"}, "steps": 1}
    values = {"data": {"train": "x"}, "stages": [{**stage, "reward": "model:judge"}]}
    assert parse(values).stages[0].reward == {"name": "model:judge"}
    values["stages"] = [{**stage, "reward": ["math", {"name": "exact"}]}]
    assert parse(values).stages[0].reward == [{"name": "math"}, {"name": "exact"}]
