"""Which completion is in which slot, and what the next forward pass must know about each: plain arrays on the host."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from superrl.records import Stop
from superrl.sampling.draw import uniforms
from superrl.sampling.protocol import Prompt
from superrl.sampling.trunks import Trunks


@dataclass(eq=False, slots=True)
class Row:
    """One completion on its way: sample number `sample` of a prompt, at most `budget` tokens long."""

    prompt: Prompt
    sample: int
    budget: int
    completion: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    entropy: float = 0.0
    stop: Stop | None = None

    @property
    def prefix(self) -> tuple[int, ...]:
        """The prompt without its last token, which is the row's first input."""
        return self.prompt.tokens[:-1]


class SlotTable:
    """The rows in the slots. Idle slots hold token 0 at position 0: they may be computed, nobody reads them."""

    def __init__(self, slots: int, max_new_tokens: int, trunks: Trunks | None = None) -> None:
        self.trunks = trunks
        self.rows: list[Row | None] = [None] * slots
        self.active = np.zeros(slots, dtype=bool)
        self.inputs = np.zeros(slots, dtype=np.int64)
        self.positions = np.zeros(slots, dtype=np.int64)
        """Where the next token stands in its row."""
        self.places = np.zeros(slots, dtype=np.int64)
        """Where its keys go in the slot."""
        self.trunk = np.zeros(slots, dtype=np.int64)
        self.temperature = np.ones(slots)
        self._drawn = np.zeros(slots, dtype=np.int64)
        self._uniforms = np.zeros((slots, max_new_tokens))

    def __len__(self) -> int:
        """How many rows are active."""
        return int(self.active.sum())

    def free(self) -> list[int]:
        """The idle slots, lowest first."""
        return [int(slot) for slot in np.flatnonzero(~self.active)]

    def occupied(self) -> list[tuple[int, Row]]:
        """The active slots with their rows."""
        return [(slot, row) for slot, row in enumerate(self.rows) if row is not None]

    def uniform(self) -> NDArray[np.float64]:
        """The number with which each slot's next token is drawn, [slots]."""
        return self._uniforms[np.arange(len(self.rows)), np.minimum(self._drawn, self._uniforms.shape[1] - 1)]

    def put(self, slot: int, row: Row) -> None:
        """A row joins; if there are trunks, with nothing in its slot."""
        self.rows[slot] = row
        self.active[slot] = True
        self.inputs[slot] = row.prompt.tokens[-1]
        self.positions[slot] = len(row.prefix)
        self.places[slot] = 0 if self.trunks is not None else len(row.prefix)
        self.temperature[slot] = row.prompt.temperature
        self._drawn[slot] = 0
        self._uniforms[slot, : row.budget] = uniforms(row.prompt.key, row.sample, row.budget)

    def advance(self, tokens: NDArray[np.int64]) -> None:
        """The drawn tokens (of the first len(tokens) slots) become the next inputs of the active rows."""
        active = np.flatnonzero(self.active)
        self.inputs[active] = tokens[active]
        for array in (self.positions, self.places, self._drawn):
            array[active] += 1

    def remove(self, slot: int) -> None:
        """A row leaves."""
        if self.trunks is not None:
            self.trunks.leave(int(self.trunk[slot]), self.trunk)
        self._empty(slot)

    def move(self, source: int, target: int) -> None:
        """A row changes its slot."""
        where = (self.positions, self.places, self.trunk)
        for array in (self.active, self.inputs, *where, self.temperature, self._drawn, self._uniforms):
            array[target] = array[source]
        self.rows[target] = self.rows[source]
        self._empty(source)

    def _empty(self, slot: int) -> None:
        self.rows[slot] = None
        self.active[slot] = False
        self.inputs[slot] = self.positions[slot] = self.places[slot] = self._drawn[slot] = 0
        self.temperature[slot] = 1.0
