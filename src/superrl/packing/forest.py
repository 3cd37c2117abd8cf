"""The prefix forest: every distinct (prefix, token) of a batch goes through the model once.

Rollouts of one prompt share the prompt and often more, a demonstration shares the prompt of the rollouts that failed,
equal rollouts share everything, and the contexts cut from one expert trajectory are prefixes of each other. Sequences
are sorted, so that a trie is walked depth first: each adds the nodes by which it differs from its predecessor. A
trained token is an edge, its parent's index and its own id; the last trained token of a sequence is no node, for
nothing is predicted from it.

Leaves out how a node attends to its ancestors (`attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch

from superrl.packing.attention import Branch, Forest
from superrl.packing.pack import Pack, Tokens, trained_positions

Prefix = tuple[int, ...]


def pack(sequences: Sequence[Tokens], max_tokens: int) -> list[Pack]:
    """The sequences in forests of at most `max_tokens` nodes each; a tree over budget is split at its branches."""
    prefixes = {i: prefix for i, one in enumerate(sequences) if (prefix := _context(one))}
    order = sorted(prefixes, key=lambda i: (prefixes[i], i))
    chunks = split([prefixes[i] for i in order], max_tokens)
    return [lay_out(sequences, order[start:end]) for start, end in chunks]


def split(prefixes: Sequence[Prefix], max_tokens: int) -> list[tuple[int, int]]:
    """Ranges of sorted sequences, each of at most `max_tokens` nodes if it holds more than one distinct sequence.

    A subtree goes into the pack at hand if it fits, else into a fresh one if it fits there, else it is cut where its
    sequences have least in common, which repeats the fewest nodes.
    """
    if not prefixes:
        return []
    common = [0, *(shared_prefix(a, b) for a, b in pairwise(prefixes))]
    added = list(accumulate((len(p) - c for p, c in zip(prefixes, common, strict=True)), initial=0))
    ranges: list[tuple[int, int]] = []
    start, used = 0, 0
    todo = [(0, len(prefixes))]
    while todo:
        low, high = todo.pop()
        joined = added[high] - added[low]
        alone = joined + common[low]
        if used + joined <= max_tokens or joined == 0:
            used += joined
        elif alone <= max_tokens or high - low == 1:
            if low > start:
                ranges.append((start, low))
            start, used = low, alone
        else:
            least = min(common[low + 1 : high])
            cuts = [low, *(j for j in range(low + 1, high) if common[j] == least), high]
            todo += reversed(list(pairwise(cuts)))
    return [*ranges, (start, len(prefixes))]


@dataclass(slots=True)
class _Layout:
    """A forest in the making: its nodes in depth-first order, and the branch that added each run of them."""

    tokens: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    last: Prefix = ()

    def add(self, prefix: Prefix) -> list[int]:
        """Put a sequence in, which must not sort before its predecessors; its nodes from the root."""
        shared = shared_prefix(self.last, prefix)
        self.last = prefix
        self.close(shared)
        first = len(self.tokens)
        fresh = range(shared, len(prefix))
        self.tokens += prefix[shared:]
        self.depth += fresh
        self.end += [-1] * len(fresh)
        self.path += range(first, len(self.tokens))
        if fresh:
            self.branches.append(Branch(first, shared, tuple(self.path)))
        return self.path

    def close(self, depth: int) -> None:
        """Leave every node of the path from `depth` on: its subtree is complete."""
        for node in self.path[depth:]:
            self.end[node] = len(self.tokens)
        del self.path[depth:]


def lay_out(sequences: Sequence[Tokens], items: Sequence[int]) -> Pack:
    """One pack of the sequences `items`, sorted by their tokens."""
    layout = _Layout()
    edges: dict[tuple[int, int, float], int] = {}
    edge, sequence, position = [], [], []
    for row, index in enumerate(items):
        item = sequences[index]
        path = layout.add(_context(item))
        trained = trained_positions(item)
        for t in trained:
            edge.append(edges.setdefault((path[t - 1], item.tokens[t], item.temperature), len(edges)))
        sequence += [row] * len(trained)
        position += trained
    layout.close(0)
    sources, targets, temperatures = zip(*edges, strict=True)
    return Pack(
        items=tuple(items),
        tokens=torch.tensor([layout.tokens]),
        source=torch.tensor(sources),
        target=torch.tensor(targets),
        temperature=torch.tensor(temperatures, dtype=torch.float32),
        edge=torch.tensor(edge),
        sequence=torch.tensor(sequence),
        position=torch.tensor(position),
        logical=sum(len(sequences[i].tokens) for i in items),
        forest=Forest.of(layout.depth, layout.end, layout.branches),
    )


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens two sequences have in common.

    >>> shared_prefix((1, 2, 3), (1, 2, 4, 5))
    2
    """
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _context(sequence: Tokens) -> Prefix:
    """The tokens from which a trained one is predicted, and those before them."""
    trained = trained_positions(sequence)
    return sequence.tokens[: trained[-1]] if trained else ()
