"""Keys and values of prompt prefixes: what several have in common is computed once, shortly before it is needed.

Computed prefixes stay in the rooms of a cache of their own until the room is needed for another, least recently used
first; a new one copies what it shares with one of them and continues from there. So completions of one prompt, prompts
under one system prompt, and the steps of a trajectory whose contexts contain each other cost what they add.

In deterministic mode a token's keys must not depend on who else is there. So a prefix is cut into blocks of BLOCK
tokens, each a pass of its own, and only whole blocks (or the very same prefix) are shared; the tails go through in
batches whose shape follows from a tail's length alone. Otherwise everything is shared to the token, and a pass holds
what needs computing, side by side, without padding.

Leaves out the forward pass itself (`local`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from superrl.sampling.probe import Windows
from superrl.sampling.slots import Piece, SlotCache, bucket

SMALLEST_LENGTH = 32
BLOCK = 128
"""Tokens of a whole block in deterministic mode; fewer make smaller products, more leave more unshared."""
BATCH_TOKENS = 512
"""Columns of a pass of tails, at most, in deterministic mode: BATCH_TOKENS // C tails of padded length C."""
FAST_TOKENS = 1024
"""Columns of any other pass."""
SHORTEST_SHARE = 32
"""Fewer tokens in common are not worth waiting for a neighbour."""
ROOM_TOKENS, FEWEST_ROOMS, MOST_ROOMS = 4096, 2, 64
"""How many rooms there are: as many as hold about ROOM_TOKENS tokens."""
AHEAD = 64
"""How many of the prefixes that wait next are looked at for one pass."""

Prefix = tuple[int, ...]
Prefill = Callable[[Sequence[Piece], int], None]
"""(pieces, columns): one forward pass of `columns` tokens, in which the pieces lie side by side."""


class Task(NamedTuple):
    """What is to be computed: `prefix` in `room`, where its first `start` tokens are already."""

    prefix: Prefix
    room: int
    start: int


def rooms_for(longest: int) -> int:
    """How many rooms for prefixes of at most `longest` tokens.

    >>> rooms_for(30), rooms_for(500), rooms_for(10_000)
    (64, 8, 2)
    """
    return max(FEWEST_ROOMS, min(MOST_ROOMS, ROOM_TOKENS // max(longest, 1)))


def common(one: Prefix, other: Prefix) -> int:
    """How many tokens two prefixes begin with in common; 0 where that is less than SHORTEST_SHARE.

    >>> common((1,) * 50, (1,) * 40 + (2,)), common((1, 2), (1, 3))
    (40, 0)
    """
    low, high = SHORTEST_SHARE, min(len(one), len(other))
    if high < low or one[:low] != other[:low]:
        return 0
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


class Prefixes:
    """The prefixes that completions still wait for, and the computed ones in the rooms of `cache`."""

    def __init__(self, prefill: Prefill, windows: Windows, *, deterministic: bool) -> None:
        self.cache = SlotCache(FEWEST_ROOMS, windows)
        self._prefill = prefill
        self._deterministic = deterministic
        self._wanted: Counter[Prefix] = Counter()
        self._held: OrderedDict[int, Prefix] = OrderedDict()

    def want(self, wanted: Iterable[Prefix]) -> None:
        """Exactly these are going to be taken, in about this order; each as often as it occurs."""
        self._wanted = Counter(prefix for prefix in wanted if prefix)
        longest = max(map(len, self._wanted), default=0)
        size = bucket(longest, SMALLEST_LENGTH) + (BLOCK if self._deterministic else 0)
        if not self.cache.capacity // 4 <= size <= self.cache.capacity:
            self.forget()
            self.cache = SlotCache(rooms_for(size), self.cache.windows)
            self.cache.reserve(size)

    def forget(self) -> None:
        """What was computed holds no longer: other weights, or numbers that are not finite."""
        self._held.clear()
        self.cache.clear()

    def take(self, prefix: Prefix, count: int) -> int:
        """The room that holds `prefix`, for `count` completions."""
        room = self._holding(prefix)
        if room is None:
            self._compute(list(self._batch(prefix)))
            room = self._holding(prefix)
            assert room is not None, "a prefix is computed before it is taken"
        self._held.move_to_end(room)
        self._wanted[prefix] -= count
        if self._wanted[prefix] <= 0:
            del self._wanted[prefix]
        return room

    def _holding(self, prefix: Prefix) -> int | None:
        for room, held in self._held.items():
            if held == prefix or (not self._deterministic and held[: len(prefix)] == prefix):
                return room
        return None

    def _batch(self, first: Prefix) -> Iterator[Task]:
        """`first` and those waiting next that go well with it; a prefix that shares more with one of them than with
        what is there waits until that is there too."""
        together: list[Prefix] = []
        claimed: set[int | None] = set()
        columns, shape = 0, self._shape(first)
        waiting = (prefix for prefix, _ in zip(list(self._wanted), range(AHEAD), strict=False) if prefix != first)
        for prefix in (first, *waiting):
            if self._holding(prefix) is not None or self._shape(prefix) != shape:
                continue
            source, start = self._source(prefix)
            if any(self._shared(prefix, other) > start for other in together):
                continue
            room = self._free_room(claimed | {source}, urgent=not together)
            cost = shape or len(prefix) - start
            if room is None or (together and columns + cost > self._columns(shape)):
                return
            if source is not None:
                self._held.move_to_end(source)
                self.cache.move(source, room, start)
            claimed |= {source, room}
            self._held.pop(room, None)
            together.append(prefix)
            columns += cost
            yield Task(prefix, room, start)

    def _shape(self, prefix: Prefix) -> int:
        """The padded length of a prefix's tail, which all tails of a pass share; 0 where there is none to share."""
        return bucket(len(prefix) % BLOCK, SMALLEST_LENGTH) if self._deterministic and len(prefix) % BLOCK else 0

    def _columns(self, shape: int) -> int:
        """How many columns the tasks of a batch may take together."""
        return BATCH_TOKENS if shape else FAST_TOKENS

    def _shared(self, one: Prefix, other: Prefix) -> int:
        """How many tokens of one prefix can be copied from another."""
        tokens = common(one, other)
        return tokens // BLOCK * BLOCK if self._deterministic else tokens

    def _source(self, prefix: Prefix) -> tuple[int | None, int]:
        """The room to copy from, and how many tokens."""
        best: tuple[int | None, int] = (None, 0)
        for room, held in self._held.items():
            if (tokens := self._shared(prefix, held)) > best[1]:
                best = (room, tokens)
        return best

    def _free_room(self, claimed: set[int | None], *, urgent: bool) -> int | None:
        """A room that holds nothing, else the one not used for longest of those that nobody waits for; if it is urgent,
        of all."""
        empty = (room for room in range(self.cache.slots) if room not in self._held and room not in claimed)
        spare = (room for room, held in self._held.items() if room not in claimed and held not in self._wanted)
        last = (room for room in self._held if urgent and room not in claimed)
        return next(empty, next(spare, next(last, None)))

    def _compute(self, tasks: Sequence[Task]) -> None:
        if self._deterministic:
            self._in_blocks(tasks)
        else:
            self._side_by_side(tasks)
        for task in tasks:
            self._held[task.room] = task.prefix

    def _in_blocks(self, tasks: Sequence[Task]) -> None:
        tails = []
        for prefix, room, start in tasks:
            whole = len(prefix) // BLOCK * BLOCK
            for begin in range(start, whole, BLOCK):
                self._prefill([Piece(room, begin, prefix[begin : begin + BLOCK], BLOCK)], BLOCK)
            if tail := prefix[whole:]:
                tails.append(Piece(room, whole, tail, bucket(len(tail), SMALLEST_LENGTH)))
        if tails:
            width = tails[0].width
            self._prefill(tails, BATCH_TOKENS // width * width)

    def _side_by_side(self, tasks: Sequence[Task]) -> None:
        """A long prefix goes through in several pieces, also in one pass: what is in front is written first."""
        pieces: list[Piece] = []
        for prefix, room, start in tasks:
            while start < len(prefix):
                free = FAST_TOKENS - sum(piece.width for piece in pieces)
                tokens = prefix[start : start + free]
                pieces.append(Piece(room, start, tokens, len(tokens)))
                start += len(tokens)
                if len(tokens) == free:
                    self._prefill(pieces, FAST_TOKENS)
                    pieces = []
        if pieces:
            self._prefill(pieces, sum(piece.width for piece in pieces))
