"""A position survives JSON, and finds the problems of its carried groups in the data again."""

import json
from dataclasses import replace
from datetime import date

import pytest

from superrl.errors import UserError
from superrl.position import Batch, Position, restore
from superrl.records import Demonstration, Group, Problem, Score, Trajectory

ROLLOUT = Trajectory(
    tokens=(5, 6, 7),
    loss_mask=(False, True, True),
    logp_sampler=(0.0, -0.1, -1 / 3),
    text="a\ud800b",
    version=3,
    stop="length",
    temperature=0.7,
    entropy=0.1 + 0.2,
    score=Score(1 / 3, False, {"part": 2.0}),
    annotations={"logp_old": (0.0, -0.25, -1.0)},
)
PROBLEM = Problem("p", ({"role": "user", "content": "?"},), "1", (Demonstration("2", ("2",), "x"),), {"day": date.min})
DATA = Group(PROBLEM, demonstrations=(replace(ROLLOUT, origin="expert"),))
"""Its meta is no JSON, as a parquet file's may be."""


def test_a_position_survives_json() -> None:
    carried = replace(DATA, trajectories=(ROLLOUT, replace(ROLLOUT, score=None)), key=(0, 0, 1, 2, 3))
    position = Position(1, 2, 3, cursor=9, best=0.1, method_state={"p": [1, 2]}, carried=(carried,), lengths={"a": 1})
    assert restore(json.loads(json.dumps(position.dump())), [DATA]) == position
    assert restore(json.loads(json.dumps(Position().dump())), []) == Position()
    ahead = Batch((carried,), (carried,), 4, (), {"hint_probability": 0.1 + 0.2}, {"rollout": 1 / 3, "reward": 0.0})
    assert restore(json.loads(json.dumps(replace(position, ahead=ahead).dump())), [DATA]).ahead == ahead
    old = Position().dump()
    del old["ahead"]
    assert restore(old, []) == Position(), "a checkpoint of before"


def test_data_that_lost_a_carried_problem_are_refused() -> None:
    dumped = Position(carried=(replace(DATA, trajectories=(ROLLOUT,)),)).dump()
    with pytest.raises(UserError, match="rollouts of problem 'p', which the data no longer have"):
        restore(dumped, [])
