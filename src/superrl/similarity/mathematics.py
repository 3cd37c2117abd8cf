r"""Similarity of two mathematical steps: what is counted exactly is counted, words are compared gently.

A step that says the same in other words, another order or another notation scores at least 0.7; one that puts another
number, sign, operator, relation or variable in the place of the expert's at most 0.5, however alike the characters are.

    0.7 F + 0.3 w                where nothing is contradicted; F is the share of numbers and variables both have
    half of that                 where something is: a number or variable instead of another, the same leaves joined
                                 otherwise, + instead of -, "odd" instead of "even"
    w                            where neither has mathematics; w is the similarity of the words, in either order

What is only left out or only added costs its share of F and is no contradiction. Symmetric; 1.0 for equal texts; linear
in the lengths but for the words, which are compared by Indel up to `LONGEST` characters and as a bag beyond. Leaves
out: whether a step is true, negation ("not"), numbers exchanged between words ("3 cats and 5 dogs") and calculation:
`12 * 3` is not `36`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rapidfuzz.distance import Indel

from superrl.similarity.formulas import PRIME, Statement, statements, value
from superrl.similarity.notation import Run, Token, scan

MATHS_SHARE = 0.7
"""What equal mathematics is worth without a word in common."""
CONTRADICTED = 0.5
"""The factor for a step that contradicts the expert's."""
REPEATED = 0.25
"""What a number counts that one text has more often than the other: to say it again is hardly to say something else."""
LONGEST = 4000
"""Characters of words that are compared in order."""
MOST_SIDES = 6
"""Sides of a chain a = b = c = ... of which every two are related; of a longer one, neighbours."""
MOST_TWINS = 64
"""Relations that are searched for near twins."""

_NUMERALS = {
    "zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "twenty": "20", "thirty": "30", "hundred": "100",
    "thousand": "1000", "half": "0.5", "twice": "2", "double": "2", "quarter": "0.25",
}  # fmt: skip
NUMERALS = {word: Token("n", digits) for word, digits in _NUMERALS.items()}
"""Not "one", "both" or "third", which mostly count nothing."""
VERBS = {
    "add": "+", "adds": "+", "adding": "+", "added": "+", "subtract": "-", "subtracts": "-", "subtracting": "-",
    "subtracted": "-", "multiply": "*", "multiplying": "*", "multiplied": "*", "divide": "/", "dividing": "/",
    "divided": "/",
}  # fmt: skip
NOUNS = {
    "plus": "+", "sum": "+", "addition": "+", "minus": "-", "subtraction": "-", "times": "*", "product": "*",
    "multiplication": "*", "quotient": "/", "division": "/",
}  # fmt: skip
"""Names of operations; a "sum" may be spoken of where one subtracts, so only verbs contradict each other."""
EITHER_ORDER = frozenset(("", "and", "or", "plus"))
"""Words whose neighbours may be exchanged."""
UNTELLING = EITHER_ORDER | frozenset(("is", "are", "was", "were", "be", "of", "in", "to", "the", "a"))
"""Words after which any number may stand."""
OPPOSITES = (
    ({"even"}, {"odd"}),
    (
        {"smallest", "least", "minimum", "minimal", "minimize"},
        {"largest", "greatest", "maximum", "maximal", "maximize"},
    ),
    ({"positive"}, {"negative"}),
    ({"increase", "increases", "increasing", "increased"}, {"decrease", "decreases", "decreasing", "decreased"}),
    ({"fewer", "less", "smaller", "below"}, {"more", "greater", "larger", "above"}),
    ({"true"}, {"false"}),
    ({"parallel"}, {"perpendicular", "orthogonal"}),
    ({"rational"}, {"irrational"}),
    ({"clockwise"}, {"counterclockwise", "anticlockwise"}),
    ({"inside"}, {"outside"}),
)

SIMPLE = ["{", "n", "}", "{", "n", "}"]

Key = tuple[str, int, int]
"""A relation between two sides, in one of its two directions."""
Joined = tuple[Key, int, int]
"""A relation and which two sides of a chain it joins."""
Leaves = tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """Two neighbouring sides of a chain, or a formula alone: its name, its leaves, which there are, what joins them."""

    key: Key
    leaves: Leaves
    names: frozenset[Token]
    operations: frozenset[str]

    def restates(self, other: Relation) -> bool:
        """Whether a term or a factor was only moved to the other side: a - b = c is a = b + c."""
        (name, a, b), (named, c, d) = self.key, other.key
        if not name == named == "=":
            return False
        if (a - b - c + d) % PRIME == 0 or (a - b + c - d) % PRIME == 0:
            return True
        return a * b * c * d != 0 and ((a * d - b * c) % PRIME == 0 or (a * c - b * d) % PRIME == 0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What `maths` knows of one text.

    `keys`: every two sides of every chain; `marks`: all sides that are more than a leaf; `alone`: numbers and variables
    outside formulas; `leaves`: all there are, `size` of them; `counted`: the numbers next to a word ("7 years"), by
    that word; `operations`: of formulas and words, `verbs`: those of words; `ratios`: the parts of plain fractions.
    """

    words: tuple[str, ...]
    formulas: tuple[tuple[Statement, tuple[Joined, ...]], ...]
    keys: frozenset[Key]
    marks: frozenset[int]
    relations: tuple[Relation, ...]
    alone: Leaves
    leaves: frozenset[Token]
    size: int
    numerals: frozenset[Token]
    counted: Mapping[tuple[str, str], Counter[Token]]
    operations: frozenset[str]
    verbs: frozenset[str]
    ratios: tuple[tuple[str, str], ...]


def maths(action: str, expert: str) -> float:
    r"""Similarity in [0, 1] of two steps as mathematics, symmetric.

    >>> maths(r"hence $x = \frac{1}{2}$", "so 0.5 = x") >= 0.7
    True
    >>> maths("So x = 7.", "So x = 4.") <= 0.5
    True
    """
    if action == expert:
        return 1.0
    one, other = read(action), read(expert)
    words = _words(one.words, other.words)
    left, right = _unexplained(one, other), _unexplained(other, one)
    left, right = left - right, right - left
    _resolve(left, right, other)
    _resolve(right, left, one)
    likeness, size = words, one.size + other.size
    if size:
        share = 1 - (_weight(left, one, other) + _weight(right, other, one)) / size
        likeness = MATHS_SHARE * share + (1 - MATHS_SHARE) * words
    mine = [relation for relation in one.relations if relation.key not in other.keys][:MOST_TWINS]
    theirs = [relation for relation in other.relations if relation.key not in one.keys][:MOST_TWINS]
    contradicted = (
        _instead(left, right, one, other)
        or _twins(mine, theirs, one, other)
        or _opposed(one, other, restated=any(a.restates(b) for a in mine for b in theirs))
    )
    return likeness * CONTRADICTED if contradicted else likeness


@lru_cache(maxsize=256)
def read(text: str) -> Reading:
    """The text's words and mathematics; kept for a while, since one expert's step is compared with many rollouts."""
    items = scan(text)
    words = tuple(item for item in items if isinstance(item, str))
    runs = [item for item in items if not isinstance(item, str)]
    formulas: list[Statement] = []
    alone: list[Token] = []
    for run in runs:
        if len(run) == 1:
            alone += run
        for statement in statements(run) if len(run) > 1 else ():
            first = statement.sides[0]
            if len(statement.sides) > 1 or len(first.leaves) > 1 or first.signed:
                formulas.append(statement)
            else:
                alone += first.leaves
    joined = [(statement, tuple(_keys(statement))) for statement in formulas]
    leaves = alone + [leaf for statement in formulas for side in statement.sides for leaf in side.leaves]
    numerals = [NUMERALS[word] for word in words if word in NUMERALS]
    verbs = frozenset(VERBS[word] for word in words if word in VERBS)
    return Reading(
        words=words,
        formulas=tuple(joined),
        keys=frozenset(key for _, keys in joined for key, _, _ in keys),
        marks=frozenset(side.mark for s in formulas for side in s.sides if len(side.leaves) > 1),
        relations=tuple(relation for statement in formulas for relation in _relations(statement)),
        alone=tuple(alone + numerals),
        leaves=frozenset(leaves),
        size=len(leaves),
        numerals=frozenset(numerals),
        counted=_counted(items),
        operations=verbs
        | {NOUNS[word] for word in words if word in NOUNS}
        | {sign for s in formulas for side in s.sides for sign in side.operations if sign != "^"},
        verbs=verbs,
        ratios=tuple(ratio for run in runs if len(run) > 2 for ratio in _ratios(run)),
    )


def _keys(statement: Statement) -> Iterator[Joined]:
    """Every two sides i, j that a relation joins, by its key; a formula without a relation is its own."""
    sides, relations = statement.sides, statement.relations
    if len(sides) == 1:
        yield ("", sides[0].mark, 0), 0, 0
    for i in range(len(sides)):
        for j in range(i + 1, len(sides) if len(sides) <= MOST_SIDES else min(i + 2, len(sides))):
            between = set(relations[i:j]) - {"="} or {"="}
            if len(between) == 1:
                yield _key(between.pop(), sides[i].mark, sides[j].mark), i, j


def _key(relation: str, left: int, right: int) -> Key:
    """One name for both directions: a > b is b < a, a = b is b = a."""
    if relation in (">", ">="):
        return relation.replace(">", "<"), right, left
    if relation in ("<", "<="):
        return relation, left, right
    return relation, min(left, right), max(left, right)


def _relations(statement: Statement) -> Iterator[Relation]:
    """The neighbours in a chain, or a formula alone, with their leaves."""
    sides = statement.sides
    if len(sides) == 1:
        yield Relation(("", sides[0].mark, 0), sides[0].leaves, frozenset(sides[0].leaves), sides[0].operations)
    for relation, left, right in zip(statement.relations, sides, sides[1:], strict=False):
        leaves = left.leaves + right.leaves
        key = _key(relation, left.mark, right.mark)
        yield Relation(key, leaves, frozenset(leaves), left.operations | right.operations)


def _counted(items: list[str | Run]) -> dict[tuple[str, str], Counter[Token]]:
    """The numbers that stand alone after each word and before each."""
    found: dict[tuple[str, str], Counter[Token]] = defaultdict(Counter)
    for before, item, after in zip(["", *items], items, [*items[1:], ""], strict=False):
        number = NUMERALS.get(item) if isinstance(item, str) else item[0] if len(item) == 1 else None
        if number is not None:
            for side, word, needless in (("after", before, UNTELLING), ("before", after, EITHER_ORDER)):
                if isinstance(word, str) and word not in needless:
                    found[side, word][number] += 1
    return found


def _ratios(run: Run) -> Iterator[tuple[str, str]]:
    r"""Numerator and denominator of every fraction of two numbers: 1/2 and \frac{1}{2}."""
    for i, token in enumerate(run):
        if token.value == "/" and 0 < i < len(run) - 1 and run[i - 1].kind == run[i + 1].kind == "n":
            yield run[i - 1].value, run[i + 1].value
        elif (
            token.value == "frac"
            and [part.value if part.kind == "o" else part.kind for part in run[i + 1 : i + 7]] == SIMPLE
        ):
            yield run[i + 2].value, run[i + 5].value


def _unexplained(text: Reading, by: Reading) -> Counter[Token]:
    """The numbers and variables of a text but for those in formulas that the other text has too."""
    left = Counter(text.alone)
    for statement, keys in text.formulas:
        known = {i for key, *pair in keys if key in by.keys for i in pair}
        for i, side in enumerate(statement.sides):
            if i not in known and side.mark not in by.marks:
                left.update(side.leaves)
    return left


def _resolve(left: Counter[Token], right: Counter[Token], other: Reading) -> None:
    """Take out of `left`, and of `right`, numbers that are written otherwise there: 0.5, 50%, 1/2, one half."""
    for leaf in list(left):
        exact = value(leaf.value) if leaf.kind == "n" else None
        if exact is not None and not leaf.value.isdecimal():
            _take_equal(left, right, leaf, exact, other)


def _take_equal(left: Counter[Token], right: Counter[Token], leaf: Token, exact: Fraction, other: Reading) -> None:
    """Take a decimal or a percentage out where the other text has its value as a number or a fraction."""
    for written in right:
        if written.kind == "n" and value(written.value) == exact:
            del left[leaf], right[written]
            return
    for top, bottom in other.ratios:
        if _ratio(top, bottom) == exact:
            del left[leaf]
            for part in (top, bottom):
                right.pop(Token("n", part), None)
            return


@lru_cache(maxsize=4096)
def _ratio(top: str, bottom: str) -> Fraction | None:
    above, below = value(top), value(bottom)
    return above / below if above is not None and below else None


def _weight(left: Counter[Token], own: Reading, other: Reading) -> float:
    """What the numbers and variables that are left count against a step; numbers in words count nothing."""
    heavy = ((leaf, n) for leaf, n in left.items() if leaf not in own.numerals)
    return sum(REPEATED * n if leaf in other.leaves else n for leaf, n in heavy)


def _instead(left: Counter[Token], right: Counter[Token], one: Reading, other: Reading) -> bool:
    """Whether a number or a variable that the other text has nowhere stands in the place of one of its own, or a number
    next to a word in the place of another."""
    new, old = left.keys() - other.leaves - one.numerals, right.keys() - one.leaves - other.numerals
    if any(leaf.kind == "v" for leaf in new) and any(leaf.kind == "v" for leaf in old):
        return True
    left_numbers, right_numbers = _numbers(left.keys() - one.numerals), _numbers(right.keys() - other.numerals)
    if (_numbers(new) and right_numbers) or (_numbers(old) and left_numbers):
        return True
    both = one.counted.keys() & other.counted.keys()
    return any(
        (one.counted[word] - other.counted[word]).keys() & left
        and (other.counted[word] - one.counted[word]).keys() & right
        for word in both
    )


def _numbers(leaves: Iterable[Token]) -> bool:
    return any(leaf.kind == "n" for leaf in leaves)


def _twins(mine: list[Relation], theirs: list[Relation], one: Reading, other: Reading) -> bool:
    """Whether a formula that the other text lacks is one of its own with one leaf exchanged, or joined otherwise."""
    return (
        any(_joined_otherwise(a, b) for a in mine for b in theirs)
        or any(_one_exchanged(a, b) for a in mine for b in other.relations[:MOST_TWINS])
        or any(_one_exchanged(a, b) for a in theirs for b in one.relations[:MOST_TWINS])
        or _sign_lost(mine, one, other)
        or _sign_lost(theirs, other, one)
    )


def _joined_otherwise(a: Relation, b: Relation) -> bool:
    """Whether two relations have the same leaves, and neither is the other with its terms moved."""
    return a.names == b.names and Counter(a.leaves) == Counter(b.leaves) and not a.restates(b)


def _one_exchanged(a: Relation, b: Relation) -> bool:
    """Whether one number or one variable is all that differs in two relations of one sort with the same operations."""
    if a.key[0] != b.key[0] or not 1 < len(a.leaves) == len(b.leaves):
        return False
    if len(a.names ^ b.names) > 2 or a.operations != b.operations:
        return False
    gone, come = Counter(a.leaves) - Counter(b.leaves), Counter(b.leaves) - Counter(a.leaves)
    return gone.total() == 1 and next(iter(gone)).kind == next(iter(come)).kind


def _sign_lost(mine: list[Relation], one: Reading, other: Reading) -> bool:
    """Whether a number with a sign stands in the place of the same number without it."""
    bare = Counter(other.alone) - Counter(one.alone)
    return any(len(relation.leaves) == 1 and relation.leaves[0] in bare for relation in mine)


def _opposed(one: Reading, other: Reading, *, restated: bool) -> bool:
    """Whether each text has an operation that the other has not, or an opposite stands in the place of its own.

    Where a term was moved to the other side (`restated`), formulas differ in their operations and say the same.
    """
    if one.verbs - other.verbs and other.verbs - one.verbs:
        return True
    if not restated and one.operations - other.operations and other.operations - one.operations:
        return True
    counts = Counter(one.words), Counter(other.words)
    for poles in OPPOSITES:
        (a, b), (c, d) = ([sum(words[word] for word in pole) for pole in poles] for words in counts)
        if a + b == c + d and a != c:
            return True
    return False


def _words(one: tuple[str, ...], other: tuple[str, ...]) -> float:
    """Similarity of the words, in their order or in the alphabet's, whichever is more."""
    if sum(map(len, one)) > LONGEST or sum(map(len, other)) > LONGEST:
        common = (Counter(one) & Counter(other)).total()
        return 2 * common / (len(one) + len(other))
    plain = Indel.normalized_similarity(" ".join(one), " ".join(other))
    return max(plain, Indel.normalized_similarity(" ".join(sorted(one)), " ".join(sorted(other))))
