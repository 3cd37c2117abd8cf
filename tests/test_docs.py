"""The code in README and docs runs as it stands, and every link leads somewhere."""

import json
import re
from pathlib import Path

import pytest

import superrl
from small_runs import letters, recipe, small_model
from superrl.config import load, shipped
from superrl.methods import build
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


def test_the_method_of_the_page_is_one_of_30_lines_and_trains_as_the_page_says(tmp_path, monkeypatch):
    (block,) = python_blocks("docs/your-own-method.md")
    body = [line for line in block.splitlines() if line and not line.startswith(("from ", '"""'))]
    assert len(body) <= 30
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.py").write_text(block)
    model = small_model(tmp_path / "model")
    method = {"name": "python:best.Best", "margin": 0.1}
    out = train(recipe(model, {"steps": 2, "method": method}), tmp_path / "run", reward=letters)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and any(row["loss/pg"] > 0 for row in rows)
    with pytest.raises(superrl.UserError, match="did you mean 'margin'"):
        build({"name": "python:best.Best", "marign": 0.1}, Limits(4, 10))
    with pytest.raises(superrl.UserError, match="has no Class 'Bset'; did you mean 'Best'"):
        build({"name": "python:best.Bset"}, Limits(4, 10))


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
