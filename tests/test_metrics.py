"""Means of unequal parts, and the completeness of a metrics row."""

import pytest

from superrl.metrics import METRIC_KEYS, Mean, Means, mean, row


def test_mean_of_unequal_parts():
    m = Mean()
    assert m.value is None
    m.add(1.0, 1)
    m.add(0.0, 9)
    assert m.value == pytest.approx(0.1)


def test_means_by_name():
    means = Means()
    means.add("loss", 2.0)
    assert means.value("loss") == 2.0 and means.value("other") is None


def test_a_row_has_every_key_and_never_nan():
    complete = row({"step": 1, "loss": float("nan"), "method/mu": 0.5})
    assert list(complete) == [*METRIC_KEYS, "method/mu"]
    assert complete["loss"] is None and complete["grad_norm"] is None and complete["method/mu"] == 0.5


def test_an_unlisted_key_is_a_bug():
    with pytest.raises(AssertionError, match="surprise"):
        row({"surprise": 1.0})


def test_mean_of_nothing_is_none():
    assert mean([]) is None and mean([1.0, 2.0]) == 1.5
