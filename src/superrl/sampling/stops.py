"""Stop strings: has the newest token completed one of them in the decoded completion?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from superrl.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """A completion as the reward reads it: without special tokens, and without cosmetics the tokens do not say."""
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


class StopStrings:
    """Decodes a completion only when its newest token may hold the last character of a stop string.

    That is known a token id at a time, from the text of the token itself, so most tokens cost one dictionary look-up
    and the rest one exact check, whatever tokens the string spans. A token that holds part of a character may complete
    any string.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        if "" in stop:
            raise UserError("an empty stop string would end every completion at once; remove it from `stop`")
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._candidates: dict[int, bool] = {}

    def completed(self, completion: Sequence[int]) -> bool:
        """Whether the completion contains a stop string; asked after every token."""
        if not self._stop or not self._may_complete(completion[-1]):
            return False
        text = decode(self._tokenizer, completion)
        return any(stop in text for stop in self._stop)

    def _may_complete(self, token: int) -> bool:
        if token not in self._candidates:
            # twice, because some tokenizers strip the space before a first token
            text = decode(self._tokenizer, [token, token])
            self._candidates[token] = "\ufffd" in text or any(stop[-1] in text for stop in self._stop)
        return self._candidates[token]
