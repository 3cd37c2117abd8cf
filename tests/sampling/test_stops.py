"""Stop strings: noticed at the token that completes them, whatever tokens and bytes they span."""

from __future__ import annotations

import pytest
from tiny_models import TOKENIZER

from superrl.sampling.stops import StopStrings


@pytest.mark.parametrize(
    ("text", "stop", "end"),
    [
        ("so</a> it", ("</a>",), "so</a>"),
        ("xab ab", ("b a",), "xab ab"),
        ("café au lait", ("é",), "café"),
        ("a→b", ("→b", "zz"), "a→b"),
        ("one two", ("two", "one"), "one"),
        ("never", ("stop",), None),
        ("no stop", (), None),
    ],
)
def test_the_completing_token_ends(text: str, stop: tuple[str, ...], end: str | None) -> None:
    tokens = TOKENIZER.encode(text, add_special_tokens=False)
    stops = StopStrings(TOKENIZER, stop)
    ends = [TOKENIZER.decode(tokens[: i + 1]) for i in range(len(tokens)) if stops.completed(tokens[: i + 1])]
    assert ends[:1] == ([] if end is None else [TOKENIZER.decode(TOKENIZER.encode(end, add_special_tokens=False))])


def test_special_tokens_are_no_text() -> None:
    tokens = [TOKENIZER.convert_tokens_to_ids("s"), TOKENIZER.eos_token_id, TOKENIZER.convert_tokens_to_ids("t")]
    assert StopStrings(TOKENIZER, ("st",)).completed(tokens)
    assert not StopStrings(TOKENIZER, ("</s>",)).completed(tokens[:2])
