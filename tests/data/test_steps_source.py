"""`steps:SOURCE`: what it takes for itself, what it passes on, who is held out, and what it brings for a stage."""

import json

import pytest
import torch

from superrl import data, engine, setup
from superrl.config import EvaluationConfig, ModelConfig, PromptConfig
from superrl.data.prepare import prepare
from superrl.errors import UserError
from superrl.learner.copies import named_weights
from superrl.models import load_tokenizer
from superrl.records import Request
from superrl.rollout import keyed, roll_out
from superrl.text import Renderer, eos_ids

CHAIN = "steps:tasks:chain?order=right&ops=3&n=8"


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def row(i, steps=3, **columns):
    return {
        "id": f"r{i}",
        "prompt": f"Question {i}?",
        "answer": "7",
        "demonstrations": [{"steps": [f"Step {k} of {i}" for k in range(steps)]}],
        **columns,
    }


def prepared(source, split="train"):
    tokenizer = load_tokenizer("tiny")
    loaded = data.load(source, split)
    prompt = PromptConfig.model_validate(loaded.defaults["prompt"])
    renderer = Renderer(tokenizer, prompt, eos_ids(tokenizer, (), prompt).final)
    return renderer, prepare(
        loaded,
        renderer,
        None,
        max_new_tokens=loaded.defaults["max_new_tokens"],
        context_length=None,
        unverified="drop",
        stop=loaded.defaults.get("stop", ()),
    )


def test_the_tiny_tasks_go_on_line_by_line():
    loaded = data.load(CHAIN, "train")
    assert loaded.defaults == {
        "prompt": {"template": "{prompt}"}, "reward": {"name": "step_similarity"}, "max_new_tokens": 8, "stop": ["\n"]
    }  # fmt: skip
    whole = data.load("tasks:chain?order=right&ops=3&n=8", "train")
    assert len(loaded.problems) == 4 * 8 and loaded.dropped == {}
    for i, problem in enumerate(whole.problems):
        steps = [step.action for step in problem.demonstrations[0].steps]
        group = loaded.problems[4 * i : 4 * i + 4]
        assert [one.answer for one in group] == steps
        assert [one.opening for one in group] == ["".join(f"{s}\n" for s in steps[:k]) for k in range(4)]


def test_prepared_they_are_the_whole_demonstration_s_tokens_cut_in_pieces():
    renderer, steps = prepared(CHAIN)
    _, whole = prepared("tasks:chain?order=right&ops=3&n=8")
    assert steps.report.dropped == {} and steps.report.demonstrations == 32
    sequences = {group.problem.id: group.demonstrations[0] for group in whole.groups}
    for group in steps.groups:
        (one,) = group.demonstrations
        meta = group.problem.meta
        last = meta["step"] == meta["steps"]
        expert = sequences[meta["trajectory"]]
        assert one.tokens == expert.tokens[: len(one.tokens)] and (one.tokens == expert.tokens) == last
        assert one.stop == ("eos" if last else "stop") and (one.tokens[-1] == renderer.eos_id) == last
        assert one.tokens[: -one.length] == renderer.context(group.problem)


def test_options_of_instances_are_taken_and_others_passed_on():
    two = data.load(
        "steps:tasks:chain?ops=2&n=4&targets=paper&think=optional&layout=instructed&expert=other-step", "train"
    )
    assert len(two.problems) == 4 * 2 and {one.meta["think"] for one in two.problems} == {"optional"}
    assert "Solution so far:" in two.problems[1].prompt
    assert two.problems[0].answer != two.problems[0].demonstrations[0].text
    assert "stop" not in two.defaults and two.defaults["prompt"] == {"template": "{prompt}\n"}
    whole = data.load("steps:tasks:chain?ops=2&n=4&targets=whole", "train")
    assert len(whole.problems) == 4 and "stop" not in whole.defaults, "a stop string would end it after one line"
    with pytest.raises(UserError, match="unknown parameter 'opps'"):
        data.load("steps:tasks:chain?opps=2", "train")


def test_the_split_of_a_task_reaches_it():
    sides = [{one.meta["trajectory"] for one in data.load(CHAIN, split).problems} for split in ("train", "test")]
    assert all(sides) and not sides[0] & sides[1]


def test_rows_are_asked_in_one_message_with_room_to_think(tmp_path):
    path = write(tmp_path / "rows.jsonl", *(row(i, repo="x") for i in range(3)))
    loaded = data.load(f"steps:{path}", "train")
    assert [one.id for one in loaded.problems] == [f"r{i}/step-{k}" for i in range(3) for k in (1, 2)]
    assert loaded.problems[0].opening == "<think>\n" and loaded.problems[0].meta["repo"] == "x"
    assert loaded.defaults["max_new_tokens"] == 512 + 64 and "stop" not in loaded.defaults


def test_a_uniform_gap_becomes_the_stop_string_and_another_does_not(tmp_path):
    query = "layout=continued&think=none&targets=all"
    path = write(tmp_path / "rows.jsonl", *(row(i) for i in range(3)))
    loaded = data.load(f"steps:{path}?{query}", "train")
    assert loaded.defaults["stop"] == ["\n\n"] and loaded.problems[0].demonstrations[0].text == "Step 0 of 0\n\n"
    inside = {"prompt": "q", "demonstrations": [{"steps": ["a\n\nb", "c"]}]}
    other = data.load(f"steps:{write(tmp_path / 'in.jsonl', row(0), inside)}?{query}", "train")
    assert "stop" not in other.defaults and other.problems[0].demonstrations[0].text == "Step 0 of 0"


def splits(source):
    return {split: data.load(source, split) for split in ("train", "validation", "test")}


def odd_one(rows, path, split, query, **columns):
    """A file in which one trajectory of `split` has other columns than the rest."""
    sides = splits(f"steps:{write(path, *rows)}?held=0.5&{query}")
    (name, *_) = [one.meta["trajectory"] for one in sides[split].problems]
    return write(path, *({**row, **(columns if row["id"] == name else {})} for row in rows))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_sides_of_a_source_agree_on_stop_room_and_kind(tmp_path, split):
    rows, query = [row(i) for i in range(24)], "layout=continued&think=none&targets=all"
    gap = {"demonstrations": [{"steps": ["a\n\nb", "c", "d"]}]}
    found = splits(f"steps:{odd_one(rows, tmp_path / 'gap.jsonl', split, query, **gap)}?held=0.5&{query}")
    assert all("stop" not in one.defaults for one in found.values())
    assert not any(p.demonstrations[0].text.endswith("\n") for one in found.values() for p in one.problems)
    long = {"demonstrations": [{"steps": ["x" * 400, "c", "d"]}]}
    found = splits(f"steps:{odd_one(rows, tmp_path / 'long.jsonl', split, query, **long)}?held=0.5&{query}")
    assert {one.defaults["max_new_tokens"] for one in found.values()} == {64 * (402 // 128 + 1)}
    assert all(one.defaults["stop"] == ["\n\n"] for one in found.values())
    call = {"demonstrations": [{"steps": [{"action": "ls", "tool": "ls", "observation": "a"}, "b", "c"]}]}
    found = splits(f"steps:{odd_one(rows, tmp_path / 'call.jsonl', split, 'think=none', **call)}?held=0.5&think=none")
    assert {one.defaults["reward"].get("kind") for one in found.values()} == {"tool_call"}


def test_steps_that_are_no_targets_say_nothing_of_room_and_kind(tmp_path):
    last = {"action": "x" * 4000, "tool": "submit", "observation": "done"}
    rows = [row(i, demonstrations=[{"steps": ["a", "b", last]}]) for i in range(2)]
    source = f"steps:{write(tmp_path / 'rows.jsonl', *rows)}?think=none"
    assert (data.load(source, "train").defaults["max_new_tokens"], data.load(source, "train").defaults["reward"]) == (
        64, {"name": "step_similarity"}
    )  # fmt: skip
    whole = data.load(f"{source}&targets=all", "train").defaults
    assert whole["max_new_tokens"] == 64 * (4000 // 128 + 1) and whole["reward"]["kind"] == "tool_call"


def test_written_solutions_are_cut_by_the_parser(tmp_path):
    solution = "We go.\n1. **Halve** 4\n2. **Add** 7\n3. **Say** 7"
    rows = [
        {"id": "cut", "prompt": "q", "completion": solution},
        {"id": "given", "prompt": "r", "demonstrations": [{"steps": ["1. **Halve** 4", "2. **Add** 7"]}]},
        {"id": "one", "prompt": "s", "completion": "Seven"},
    ]
    path = write(tmp_path / "rows.jsonl", *rows)
    loaded = data.load(f"steps:{path}?think=none", "train")
    assert [(one.id, one.answer, one.meta["format"]) for one in loaded.problems] == [
        ("cut/step-1", "4", "titled"),
        ("cut/step-2", "7", "titled"),
        ("given/step-1", "4", "titled"),
    ]
    assert sum(loaded.dropped.values()) == 1
    alone = write(tmp_path / "alone.jsonl", rows[0])
    assert len(data.load(f"steps:{alone}", "train").problems) == 2
    with pytest.raises(UserError, match=r"gives no step instance for train \(1 no_steps\): choose other data"):
        data.load(f"steps:{alone}?parser=hash-step", "train")


def test_every_solution_of_a_row_is_a_trajectory_of_its_own(tmp_path):
    path = write(tmp_path / "g.jsonl", {"question": "1+1+2?", "answer": "1+1 is 2.\n2+2 is 4.\n#### 4"})
    loaded = data.load(f"steps:gsm8k:{path}?think=none&layout=continued", "train")
    assert [one.answer for one in loaded.problems] == ["1+1 is 2.", "2+2 is 4."]
    assert "boxed" in loaded.defaults["prompt"]["template"], "the preset's own prompt, since its own answer goes on"
    with pytest.raises(UserError, match="is no file, so that format=openhands has nothing to read"):
        data.load(f"steps:gsm8k:{path}?format=openhands", "train")


def test_rows_choose_among_the_trajectories_of_a_file(forty):
    assert [one.id for one in data.load(f"steps:{forty}?rows=1:2", "train").problems] == ["r1/step-1", "r1/step-2"]


def test_agents_are_compared_by_their_calls(tmp_path):
    step = {"action": "ls", "observation": "a.py", "tool": "ls", "thought": "Look."}
    path = write(tmp_path / "a.jsonl", {"prompt": "Mend it.", "demonstrations": [{"steps": [step, step, step]}]})
    loaded = data.load(f"steps:{path}", "train")
    assert loaded.defaults["reward"] == {"name": "step_similarity", "kind": "tool_call"} and len(loaded.problems) == 2


# Who is held out.


@pytest.fixture
def forty(tmp_path):
    rows = [row(i, repo=f"owner/{i % 8}") for i in range(40)]
    rows += [{**row(i), "id": f"again-{i}", "repo": f"owner/{i % 8}"} for i in range(5)]
    return write(tmp_path / "forty.jsonl", *rows)


def sides(source):
    return {
        split: {(one.meta["trajectory"], one.prompt.split("\n")[3]) for one in data.load(source, split).problems}
        for split in ("train", "validation", "test")
    }


def test_held_out_trajectories_are_whole_and_apart(forty):
    found = sides(f"steps:{forty}?held=0.4&targets=all")
    assert sum(map(len, found.values())) == 45 and len(set.union(*found.values())) == 45
    assert 4 <= len(found["validation"]) <= 16 and 4 <= len(found["test"]) <= 16
    for one in found.values():
        assert {f"r{name.removeprefix('again-')}" for name, _ in one if name.startswith("again-")} <= {
            n for n, _ in one
        }
    assert sides(f"steps:{forty}?held=0.8&targets=all")["train"] < found["train"]
    assert len(data.load(f"steps:{forty}", "test").problems) == 45 * 2, "without `held` a file has no splits"


def test_held_out_of_a_task_are_some_of_its_training_problems():
    names = [
        {one.meta["trajectory"] for one in data.load("steps:tasks:chain?n=30&held=0.5", split).problems}
        for split in ("train", "validation", "test")
    ]
    whole = {problem.id for problem in data.load("tasks:chain?n=30", "train").problems}
    assert set.union(*names) == whole and sum(map(len, names)) == 30 and all(names)


def test_by_a_column_nothing_of_it_stands_on_two_sides(forty):
    source = f"steps:{forty}?held=0.6&by=repo"
    repos = [
        {one.meta["repo"] for one in data.load(source, split).problems} for split in ("train", "validation", "test")
    ]
    assert sum(map(len, repos)) == 8 and len(set.union(*repos)) == 8
    counts = [len(data.load(source, split).problems) // 2 for split in ("validation", "test")]
    assert all(8 <= count <= 0.3 * 45 for count in counts), "as many whole groups as fit"
    with pytest.raises(UserError, match=r"problem 'r0' has no column 'owner' for `by`, only .*repo"):
        data.load(f"steps:{forty}?held=0.5&by=owner", "train")


def test_a_group_too_large_to_be_held_out_is_trained_on_and_no_side_is_empty(tmp_path):
    rows = [row(i, repo="large") for i in range(30)] + [row(30 + i, repo=f"small {i % 3}") for i in range(7)]
    source = f"steps:{write(tmp_path / 'uneven.jsonl', *rows)}?held=0.05&by=repo"
    found = {
        split: {one.meta["repo"] for one in data.load(source, split).problems}
        for split in ("train", "validation", "test")
    }
    assert "large" in found["train"] and all(len(found[split]) == 1 for split in ("validation", "test"))
    assert found["validation"] | found["test"] <= {"small 1", "small 2"}, "the smallest ones"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("held=1", r"held=1\.0 is no share of the trajectories"),
        ("held=much", "held=much: held takes float"),
        ("targets=most", "targets=most"),
        ("targets=papre", "did you mean 'paper'"),
        ("pairs=two", "pairs takes int"),
        ("unresolved=yes", "unresolved takes bool"),
        ("ends=x", "unknown parameter 'ends'"),
    ],
)
def test_a_query_nobody_reads_is_one_sentence(forty, query, sentence):
    with pytest.raises(UserError, match=sentence):
        data.load(f"steps:{forty}?{query}", "train")


def test_steps_of_steps_are_refused(forty):
    with pytest.raises(UserError, match="steps of steps"):
        data.load(f"steps:steps:{forty}", "train")


def test_a_rollout_that_a_stop_string_ends_has_the_tokens_of_such_a_demonstration():
    workshop = setup.open_workshop(ModelConfig(name="tiny"), setup.Given(), lambda text: None)
    settings = EvaluationConfig(temperature=1.0)
    one = setup.evaluation(workshop, "test", f"{CHAIN}&split=train", settings)
    assert one.environment.limits.stop == ("\n",)
    sampler = engine.new_sampler(workshop.model, workshop.tokenizer, torch.float32, [one.environment])
    sampler.load(dict(named_weights(workshop.model)), version=0)
    drawn = roll_out([(Request(4),) for _ in one.groups], keyed(one.groups, (0,)), one.environment, sampler, None)
    renderer = one.environment.renderer
    stopped = [(g.problem, t) for g in drawn for t in g.trajectories if t.stop == "stop"]
    assert len(stopped) > 40
    for problem, rollout in stopped:
        context, (completion,) = renderer.context(problem), renderer.encode([rollout.text])
        expert = renderer.expert(context, rollout.text, completion, stopped=True)
        assert rollout.text.endswith("\n") and expert.tokens == rollout.tokens
        assert (expert.loss_mask, expert.stop) == (rollout.loss_mask, rollout.stop)


def test_by_without_held_is_refused() -> None:
    with pytest.raises(UserError, match=r"by=task says what stays together .*: give held"):
        data.load("steps:tasks:chain?ops=2&n=4&by=task", "train")
