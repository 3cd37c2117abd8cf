"""The code in README and docs runs as it stands, and every link leads somewhere."""

import re
from pathlib import Path

import pytest

import superrl
from builders import group, tiny_llama
from small_runs import recipe, small_model
from superrl.config import Frozen, OptimizerConfig, load, shipped
from superrl.learner.learner import Learner, Schedule
from superrl.methods.hooks import Limits
from superrl.training import train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_s_python_example_trains_and_evaluates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = small_model(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"prompt": "1+1=", "answer": "2", "demonstrations": ["2"]}\n')
    (tmp_path / "test.jsonl").write_text('{"prompt": "1+2=", "answer": "3"}\n')
    (tmp_path / "mine.yaml").write_text(
        f"model: {{name: {model}}}\ndata: {{train: train.jsonl, test: [test.jsonl]}}\n"
        "stages: [{name: rl, method: {name: superrl}, steps: 1, prompts_per_step: 2, max_new_tokens: 4}]\n"
    )
    (block,) = [b for b in python_blocks("README.md") if "superrl.train" in b]
    space: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), space)
    run = space["run"]
    assert isinstance(run, Path) and (run / "summary.json").is_file()


def test_the_complete_method_of_the_architecture_page_is_complete():
    (block,) = [b for b in python_blocks("docs/architecture.md") if "class Rft" in b]
    space: dict[str, object] = {"__name__": "rft"}
    exec(compile(block, "architecture.md", "exec"), space)
    method = space["Rft"](Frozen(), Limits(4, 10))
    plan = method.plan([group([1, 0, 1, 0]), group([0] * 4)], {})
    assert [d.kind for d in plan.decisions] == ["pg", "none"] and len(plan.updates[0].samples) == 2
    model = tiny_llama()
    learner = Learner(model, next(model.parameters()).dtype, Schedule(OptimizerConfig(), 1, 1, 1, 100, 0))
    means = learner.step(plan.updates, method, version=0)
    assert means.value("loss/pg") > 0


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes_are_valid(name):
    assert load(name).stages
    assert shipped()[name]


def test_a_run_is_evaluated_as_it_evaluates_itself(tmp_path):
    data = tmp_path / "test.jsonl"
    data.write_text('{"prompt": "1+2=", "answer": "3"}\n')
    settings = recipe(small_model(tmp_path / "model"), {"steps": 1, "reward": {"name": "exact", "after": ""}})
    out = train(settings, tmp_path / "run")
    assert superrl.evaluate(out, str(data))["n"] == 1
    with pytest.raises(superrl.UserError, match="no reward is named"):
        superrl.evaluate(tmp_path / "model", str(data))
