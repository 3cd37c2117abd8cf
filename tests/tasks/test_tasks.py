"""The procedural tasks: deterministic, disjoint, exactly verified, and refused in words a user can act on."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.errors import UserError
from superrl.records import Problem
from superrl.tasks import FAMILIES, load, split_of, verify
from superrl.tasks.chain import evaluate
from superrl.tasks.family import Item
from superrl.tasks.logic import Logic
from superrl.tasks.route import Route
from superrl.tasks.spec import SPLITS

SPECS = [
    "chain?ops=3",
    "chain?ops=4&order=right",
    "chain?ops=2&order=mixed&seed=3",
    "route?hops=4&places=7",
    "route?way=against",
    "logic",
    "logic?depth=4&distractors=2&way=backward",
]


def texts(spec: str, split: str = "train") -> list[str]:
    return [problem.prompt for problem in load(spec, split).problems]


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_names_the_same_problems_every_time_and_n_of_them(spec: str) -> None:
    query = spec + ("&" if "?" in spec else "?") + "n=40"
    assert load(query) == load(query)
    assert len(set(texts(query))) == 40
    assert texts(query) == texts(query.replace("n=40", "n=60"))[:40]


def test_the_problems_are_the_same_in_another_process_with_another_hash_seed() -> None:
    program = "from superrl.tasks import load; print([p.id for p in load('logic?n=5').problems])"
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert run.stdout.decode().strip() == str([problem.id for problem in load("logic?n=5").problems])


def test_the_problems_of_a_spec_never_change_between_releases() -> None:
    assert [texts(f"{name}?n=1") for name in sorted(FAMILIES)] == FIRST_PROBLEMS


FIRST_PROBLEMS = [[">0-5+1+1="], [">pw:pw>n,tw>b,nw>x,nx>e:e="], [">df gj bd fi ig jb:b3="]]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_splits_are_disjoint_for_every_seed(family: str) -> None:
    seen = {split: {t for seed in range(3) for t in texts(f"{family}?n=150&seed={seed}", split)} for split in SPLITS}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    assert all(split_of(text) == split for split in SPLITS for text in seen[split])


def test_different_seeds_and_splits_give_different_problems() -> None:
    assert set(texts("chain?seed=1")) != set(texts("chain?seed=2"))
    assert texts("chain?split=test") == texts("chain", "test") != texts("chain")
    assert texts("chain?split=train", "test") == texts("chain")


@pytest.mark.parametrize("spec", SPECS)
def test_every_demonstration_is_its_steps_and_passes_the_verifier(spec: str) -> None:
    loaded = load(spec)
    for problem in loaded.problems:
        (demonstration,) = problem.demonstrations
        assert demonstration.text == "\n".join(step.action for step in demonstration.steps)
        assert verify(problem, demonstration.text)
        assert len(demonstration.text) < loaded.defaults["max_new_tokens"]
        assert loaded.defaults["reward"] == {"name": "exact", "after": "#"}


def test_the_verifier_reads_what_follows_the_last_mark() -> None:
    problem = Problem("p", ({"role": "user", "content": "q"},), "4 9", meta={"task": "chain"})
    right, wrong = ["#4 9", "no\n# 4 9 \n", "#1 2\n#4 9"], ["#4 9\n#1 2", "4 9", "", "#49", "#4 9 3"]
    assert [verify(problem, text) for text in right + wrong] == [True] * len(right) + [False] * len(wrong)


@pytest.mark.parametrize(("demos", "expected"), [("", 20), ("&demos=5", 5), ("&demos=0", 0), ("&demos=99", 20)])
def test_demos_says_how_many_of_the_first_problems_are_demonstrated(demos: str, expected: int) -> None:
    loaded = load("chain?n=20" + demos)
    assert [bool(p.demonstrations) for p in loaded.problems] == [True] * expected + [False] * (20 - expected)
    assert texts("chain?n=20" + demos) == texts("chain?n=20")


def wrong_ones(spec: str) -> set[str]:
    """The ids of the problems whose demonstration the verifier refuses."""
    return {p.id for p in load(spec).problems for d in p.demonstrations if not verify(p, d.text)}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_wrong_says_which_share_of_the_demonstrations_is_wrong_and_changes_nothing_else(family: str) -> None:
    right, quarter, half = (load(f"{family}?n=60&demos=40&wrong={share}").problems for share in (0, 0.25, 0.5))
    assert right == load(f"{family}?n=60&demos=40").problems
    for problems, count in ((right, 0), (quarter, 10), (half, 20)):
        wrong = [p for p in problems for d in p.demonstrations if not verify(p, d.text)]
        assert len(wrong) == count
        assert {d.source for p in wrong for d in p.demonstrations} <= {"wrong"}
        assert sum(bool(p.demonstrations) for p in problems) == 40
        assert [(p.id, p.messages, p.answer) for p in problems] == [(p.id, p.messages, p.answer) for p in right]
    solutions = {d.text for p in load(f"{family}?n=60").problems for d in p.demonstrations}
    assert {d.text for p in half for d in p.demonstrations} <= solutions
    assert wrong_ones(f"{family}?n=60&demos=40&wrong=0.25") < wrong_ones(f"{family}?n=60&demos=40&wrong=0.5")


def test_without_another_answer_there_is_no_wrong_demonstration() -> None:
    assert len(wrong_ones("chain?n=3&wrong=1")) == 3
    with pytest.raises(UserError, match="no problem with another answer to take a wrong solution from: raise n"):
        load("chain?n=1&wrong=1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chain?wrong=1.5", "wrong=1.5 is no share: give a number from 0 to 1"),
        ("chain?wrong=nan", "wrong=nan is no share"),
        ("chian?n=2", "there is no task 'chian': did you mean 'chain'?"),
        ("chain?opps=3", "unknown parameter 'opps': did you mean 'ops'?"),
        ("chain?demo=3", "unknown parameter 'demo': did you mean 'demos'?"),
        ("chain?ops=three", "ops=three: ops takes int"),
        ("chain?demos=few", "demos=few: demos takes int"),
        ("chain?order=rigth", "order=rigth: did you mean 'right'?"),
        ("chain?split=tset", "split=tset: did you mean 'test'?"),
        ("chain?ops=0", "ops=0 is out of range: give ops between 1 and 12"),
        ("chain?ops", "'ops' where a key=value is expected"),
        ("chain?n=1&n=2", "gives 'n' twice"),
        ("chain?n=0", "n=0 leaves nothing to load"),
        ("chain?demos=-1", "demos=-1 is negative"),
        ("route?hops=6&places=6", "hops=6 is out of range: give hops between 1 and 5"),
        ("chain?ops=1&n=9000", "distinct problems in its train split: lower n"),
    ],
)
def test_what_a_user_got_wrong_is_said_in_a_sentence(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(spec)
    assert message in str(caught.value)


def test_an_exhausted_family_says_how_many_problems_there_are() -> None:
    count = sum(split_of(f">{a}{s}{b}=") == "test" for a in range(10) for b in range(10) for s in "+-*")
    with pytest.raises(UserError, match=f"only {count} distinct problems in its test split"):
        load("chain?ops=1&n=9000", "test")


@given(st.integers(0, 9), st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 9)), min_size=1, max_size=8))
def test_a_chain_agrees_with_python_on_the_bracketed_expression(first: int, rest: list[tuple[str, int]]) -> None:
    signs, digits = [sign for sign, _ in rest], [first, *(digit for _, digit in rest)]
    for order in ("left", "right"):
        working, results = evaluate(digits, signs, order)
        for i, (line, result) in enumerate(zip(working, results, strict=True)):
            if order == "left":
                inner = "(" * (i + 1) + str(first) + "".join(f"{s}{d})" for s, d in rest[: i + 1])
            else:
                part = digits[len(signs) - 1 - i : len(signs)]
                inner = "".join(f"{d}{s}(" for d, s in zip(part, signs[len(signs) - 1 - i :], strict=True))
                inner += str(digits[-1]) + ")" * len(part)
            assert int(result) == eval(inner) % 10
            left, right = line.split("=")
            assert eval(left) % 10 == int(right) == int(result)


@given(st.integers(0, 10_000), st.sampled_from(["along", "against"]))
def test_a_walk_uses_only_links_of_the_map(seed: int, way: str) -> None:
    made = Route(hops=3, places=6, way=way).make(random.Random(seed))  # type: ignore[arg-type]
    links, _, start = made.question[1:-1].partition(":")
    place = start[0]
    for link, there in zip(made.steps[:-1], made.answer.split(), strict=True):
        assert link in links.split()
        assert (link == place + there) if way == "along" else (link == there + place)
        place = there


def provable(facts: str, rules: list[str]) -> set[str]:
    """Everything the rules give, by brute force."""
    known = set(facts)
    while new := {rule[3] for rule in rules if set(rule[:2]) <= known} - known:
        known |= new
    return known


@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from(["forward", "backward"]))
def test_a_proof_is_sound_complete_and_its_order_forced(seed: int, depth: int, way: str) -> None:
    made: Item = Logic(depth=depth, distractors=2, way=way).make(random.Random(seed))  # type: ignore[arg-type]
    facts, listed, goal = made.question[1:-1].split(":")
    rules, proof = listed.split(","), list(made.steps[:-1])
    assert provable(facts, rules) == set(facts) | set(made.answer.split())
    assert goal == (made.answer[-1] if way == "forward" else made.answer[0])
    forward = proof if way == "forward" else proof[::-1]
    known = set(facts)
    for rule in forward:
        assert [r for r in rules if set(r[:2]) <= known and r[3] not in known] == [rule]
        known.add(rule[3])
    assert goal not in provable(facts, [r for r in rules if r != forward[0]])


absent = importlib.util.find_spec("reasoning_gym") is None
needs_gym = pytest.mark.skipif(absent, reason="reasoning-gym is not installed")


@needs_gym
def test_reasoning_gym_brings_problems_and_for_gsm_symbolic_solutions() -> None:
    loaded = load("reasoning_gym/gsm_symbolic?n=12&demos=6")
    assert loaded == load("reasoning_gym/gsm_symbolic?n=12&demos=6")
    assert sum(bool(problem.demonstrations) for problem in loaded.problems) in (5, 6)
    assert all(verify(problem, d.text) for problem in loaded.problems for d in problem.demonstrations)
    assert loaded.defaults["reward"] == {"name": "exact", "after": "####"}
    test = texts("reasoning_gym/chain_sum?n=50", "test")
    assert not set(texts("reasoning_gym/chain_sum?n=50&max_terms=4")) & set(test)


@needs_gym
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reasoning_gym/gsm_symbolik", "no dataset 'gsm_symbolik': did you mean 'gsm_symbolic'?"),
        ("reasoning_gym/chain_sum?max_term=3", "unknown parameter 'max_term': did you mean 'max_terms'?"),
        ("reasoning_gym/chain_sum?max_terms=x", "max_terms=x: max_terms takes int"),
        ("reasoning_gym/chain_sum?min_terms=9&max_terms=3", "is refused by reasoning_gym"),
        ("reasoning_gym/chain_sum?size=3", "gives 'size': the loader's seed and n stand for it"),
    ],
)
def test_what_reasoning_gym_would_refuse_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(spec)
    assert message in str(caught.value)


def test_a_missing_reasoning_gym_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UserError, match=r"pip install 'superrl\[tasks\]'"):
        load("reasoning_gym/gsm_symbolic")
