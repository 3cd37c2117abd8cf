"""What is measured of a model, against the same numbers taken the slow way with a whole small model."""

import math
from pathlib import Path

import pytest
import torch

from small_runs import TASK, recipe, small_model
from superrl import setup, tasks
from superrl.comparison.likeness import similarity
from superrl.comparison.measure import IMITATION, SUCCESSES, imitation, passes, spread
from superrl.comparison.subject import Subject, open_base
from superrl.config import Recipe
from superrl.errors import UserError
from superrl.models import load_tokenizer

TEST = f"{TASK}&n=2"
REWARD = """
def begins(completions, **columns):
    return [float(text[:1] in "0123456789") for text in completions]
"""
BEGINS = {"name": "python:rewards_of_measures.begins", "correct_at": 1.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("measure") / "model")


@pytest.fixture
def base(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A model that knows nothing, whose successes are the texts that begin with a digit."""
    (tmp_path / "rewards_of_measures.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return open_base(of(model))


def of(model: Path, **keys: object) -> Recipe:
    return recipe(model, {"reward": BEGINS}, **keys)


def heard(tokens: int) -> None:
    """Nobody wants to stop."""


def slow_nll(model: Path, problems: list[tasks.Problem]) -> float:
    """The mean over all tokens of the demonstrations, end included, of -log p, one sequence at a time."""
    from transformers import AutoModelForCausalLM

    tokenizer, plain = load_tokenizer(str(model)), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    total, count = 0.0, 0
    for problem in problems:
        prompt, text = (
            tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (problem.prompt, problem.demonstrations[0].text)
        )
        ids = torch.tensor([[*prompt, *text, 1]])
        with torch.no_grad():
            logp = plain(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
        total, count = total - float(logp.sum()), count + len(logp)
    return total / count


def test_what_was_taken_from_the_expert(base: Subject, model: Path) -> None:
    found = imitation(base, {"held_out": TEST, "problems": 64}, heard)
    train = tasks.load(f"{TASK.removeprefix('tasks:')}&n=12&demos=9", "train").problems
    test = tasks.load(TEST.removeprefix("tasks:"), "test").problems
    assert [found[key]["problems"] for key in ("trained", "held_out")] == [9, 2]
    assert found["held_out"]["source"] == TEST
    assert found["trained"]["nll"] == pytest.approx(slow_nll(model, [p for p in train if p.demonstrations]), rel=1e-5)
    assert found["held_out"]["nll"] == pytest.approx(slow_nll(model, list(test)), rel=1e-5)

    loaded = setup.data.load(TEST, "test")
    environment = base.workshop.environment(
        loaded, prompt=None, reward=None, max_new_tokens=10, stop=(), temperature=1.0, where="test"
    )
    groups = base.workshop.prepared(loaded, environment, "keep", TEST).groups
    drawn = base.draw(groups, environment, SUCCESSES, IMITATION, heard)
    alike, correct = [], 0
    for group in drawn:
        own = [one.text for one in group.trajectories if one.text[:1] in "0123456789"]
        correct += len(own)
        demonstration = group.problem.demonstrations[0].text
        alike += [sum(similarity(text, demonstration) for text in own) / len(own)] if own else []
    held_out = found["held_out"]
    assert 0 < held_out["solved"] == len(alike) and 0 < correct < 2 * SUCCESSES
    assert held_out["correct"] == correct / (2 * SUCCESSES)
    assert held_out["similarity"] == pytest.approx(math.fsum(alike) / len(alike))


def test_held_out_problems_are_no_training_problems(base: Subject, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "rows.jsonl"
    mine.write_text('{"prompt": "1+1=", "answer": "2", "demonstrations": ["2"]}\n')
    other = tmp_path / "other.jsonl"
    other.write_text(mine.read_text() + '{"prompt": "1+2=", "answer": "3", "demonstrations": ["3"]}\n')
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "2+2=", "answer": "4"}\n')

    def looked(test: Path, validation: Path | None, train: Path = mine) -> dict[str, str]:
        data = {"train": str(train), "validation": validation and str(validation), "test": [str(test)]}
        subject = Subject(of(model, data={**data, "unverified": "keep"}, evaluation={"every": 0}), base.workshop)
        found = imitation(subject, {"held_out": str(test), "problems": 5}, heard)
        assert all(one["problems"] == 1 for one in found.values())
        return {name: one["source"] for name, one in found.items()}

    assert looked(other, None) == {"trained": "training", "held_out": str(other)}
    assert looked(mine, other) == {"trained": "training", "held_out": str(other)}, "validation, where test has none"
    assert looked(mine, None) == {"trained": "training"} == looked(bare, bare)
    assert looked(other, None, train=bare) == {}, "nothing is demonstrated, so nothing can be imitated"


def test_passes_count_the_correct_completions_of_the_first_problems(base: Subject, model: Path) -> None:
    asked = {"data": f"{TASK}&n=5", "samples": 6, "problems": 3}
    found = passes(base, asked, heard)["correct"]
    wanted = [problem.id for problem in tasks.load(asked["data"].removeprefix("tasks:"), "test").problems[:3]]
    assert list(found) == wanted and 0 < sum(found.values()) < 18
    assert passes(base, asked, heard)["correct"] == found, "draws are a function of the seed"
    fewer = Subject(of(model, evaluation={"every": 0, "limit": 2}), base.workshop)
    assert passes(fewer, asked, heard)["correct"] == {name: found[name] for name in wanted[:2]}
    never = {"reward": {**BEGINS, "correct_at": 2.0}, "every": 0}
    assert not any(passes(Subject(of(model, evaluation=never), base.workshop), asked, heard)["correct"].values())


def test_without_a_judgement_there_are_no_passes_and_no_successes(base: Subject, model: Path) -> None:
    unjudged = {"reward": {**BEGINS, "correct_at": None}}
    shaped = recipe(model, unjudged, evaluation={"every": 0})
    subject = Subject(shaped, base.workshop)
    with pytest.raises(UserError, match="does not say what is correct"):
        passes(subject, {"data": TEST, "samples": 2, "problems": 2}, heard)
    found = imitation(subject, {"held_out": TEST, "problems": 2}, heard)["held_out"]
    assert (found["correct"], found["solved"], found["similarity"]) == (None, 0, None) and found["nll"] > 0


def test_a_sample_of_problems_is_spread_over_all() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7] and spread([1, 2], 4) == [1, 2] and spread([], 4) == []


def test_an_unknown_held_out_set_is_one_sentence(base: Subject) -> None:
    with pytest.raises(UserError, match="nowhere"):
        imitation(base, {"held_out": "nowhere.jsonl", "problems": 5}, heard)
