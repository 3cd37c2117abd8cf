r"""Formulas as fingerprints: equal where only the notation or the order of commuting parts differs.

A formula is evaluated in the field of integers modulo a prime, every number and every variable standing for a value
drawn from its name. Sums, products and quotients are then the field's own, so that `2x + 3` and `3 + x \cdot 2` agree
by construction, `\frac{1}{2}x` and `x/2`, `a - (b + c)` and `a - b - c`, while `12 * 3` is not 36: a step that does not
calculate is not the step that does. Whatever else there is (roots, binomials, subscripts, functions) is mixed in order.
Two different formulas agree by chance about once in 2^60. Linear in the tokens; takes any run and never raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b

from superrl.similarity.notation import Run, Token

PRIME = (1 << 61) - 1
DEEPEST = 40
"""Levels of brackets; what is deeper is read as one opaque symbol."""
LARGEST_POWER = 12
"""Powers up to this one are products: x^2 is x * x; the others are symbols of base and exponent."""
LONGEST_DECIMAL = 18

OPERATIONS = {"+": "+", "-": "-", "*": "*", "/": "/", "^": "^", "frac": "/"}
OPENING, CLOSING = frozenset("([{"), frozenset(")]}")
BRACKETS = OPENING | CLOSING
SYMMETRIC = frozenset(("gcd", "lcm", "max", "min"))
STARTS_OPERAND = frozenset("([{|")
END = Token("", "")


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a relation, or a formula without one: its fingerprint, its numbers and variables in order, which of
    + - * / and ^ join them; `signed`: it says more than its leaves do."""

    mark: int
    leaves: tuple[Token, ...]
    operations: frozenset[str]
    signed: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """Sides and the relations between them: `a = b < c` has three sides and two relations."""

    sides: tuple[Side, ...]
    relations: tuple[str, ...]


def statements(run: Run) -> list[Statement]:
    """What a run of tokens says."""
    return _Parser(run).statements()


@lru_cache(maxsize=4096)
def value(number: str) -> Fraction | None:
    """What a canonical number is worth, `50%` a half; None for one too long to be anything but itself."""
    digits = number.rstrip("%")
    if len(digits) > LONGEST_DECIMAL:
        return None
    return Fraction(digits) / (100 if number.endswith("%") else 1)


@lru_cache(maxsize=4096)
def _symbol(name: str) -> int:
    """The value a name stands for; the same in every process."""
    return int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "big") % PRIME


@lru_cache(maxsize=4096)
def _number(number: str) -> int:
    """The value a number stands for: 0 and 1 are themselves, and a decimal is its fraction in lowest terms."""
    exact = value(number)
    if exact is None:
        return _symbol(number)
    top, bottom = (n if n in (0, 1) else _symbol(str(n)) for n in exact.as_integer_ratio())
    return top * pow(bottom, -1, PRIME) % PRIME


def _mix(name: str, *parts: int) -> int:
    """An opaque function of its arguments, in order. Hashes of integers are the same in every process."""
    return hash((_symbol(name), *parts)) % PRIME


class _Parser:
    """Recursive descent over one run, which two empty tokens end; every loop takes at least one token a turn."""

    def __init__(self, run: Run) -> None:
        self.run = [*run, END, END]
        self.end = len(run)
        self.at = 0
        self.depth = 0

    def statements(self) -> list[Statement]:
        """All statements of the run; a bracket or comma out of place ends one."""
        found: list[Statement] = []
        sides: list[Side] = []
        relations: list[str] = []
        while self.at < self.end:
            start = self.at
            mark = self.sum()
            if self.at > start:
                sides.append(_side(mark, self.run[start : self.at]))
            token = self.run[self.at]
            if token.kind == "r" and sides:
                relations += [token.value] * (len(sides) - len(relations))
            elif token.kind != "r" and sides:
                found.append(Statement(tuple(sides), tuple(relations[: len(sides) - 1])))
                sides, relations = [], []
            self.at += 1
        if sides:
            found.append(Statement(tuple(sides), tuple(relations[: len(sides) - 1])))
        return found

    def sum(self) -> int:
        """Terms joined by + and -."""
        total = self.term()
        while self.run[self.at].value in ("+", "-"):
            sign = self.run[self.at].value
            self.at += 1
            term = self.term()
            total = (total + term if sign == "+" else total - term) % PRIME
        return total

    def term(self) -> int:
        """Factors joined by signs of multiplication and division, or by standing side by side."""
        product = self.factor()
        while True:
            token = self.run[self.at]
            if token.value in ("*", "/"):
                self.at += 1
                factor = self.factor()
                product = _quotient(product, factor) if token.value == "/" else product * factor % PRIME
            elif token.value == "mod":
                self.at += 1
                product = _mix("mod", product, self.factor())
            elif token.value in OPENING and self.run[self.at + 1].value == "mod":
                self.at += 2
                product = _mix("mod", product, self.factor())
                self.at += self.run[self.at].value in CLOSING
            elif token.kind in ("n", "v", "f", "c") or token.value in STARTS_OPERAND:
                product = product * self.postfix() % PRIME
            else:
                return product

    def factor(self) -> int:
        """A factor with its signs."""
        negative = False
        while self.run[self.at].value in ("+", "-"):
            negative ^= self.run[self.at].value == "-"
            self.at += 1
        mark = self.postfix()
        return -mark % PRIME if negative else mark

    def postfix(self) -> int:
        """An operand with its powers, subscripts, primes and factorials."""
        mark = self.operand()
        while True:
            token = self.run[self.at]
            if token.value == "^":
                self.at += 1
                mark = self.power(mark)
            elif token.value == "_":
                self.at += 1
                mark = _mix("_", mark, self.operand())
            elif token.value in ("!", "'"):
                self.at += 1
                mark = _mix(token.value, mark)
            else:
                return mark

    def power(self, base: int) -> int:
        """`base` to the exponent that comes."""
        start = self.at
        exponent = self.signed_operand()
        plain = [token.value for token in self.run[start : self.at] if token.value not in "{}()"]
        if len(plain) == 1 and plain[0].isdecimal() and len(plain[0]) <= 2 and int(plain[0]) <= LARGEST_POWER:
            return pow(base, int(plain[0]), PRIME)
        return _mix("^", base, exponent)

    def signed_operand(self) -> int:
        """An operand that may have a sign: what an exponent is."""
        if self.run[self.at].value == "-":
            self.at += 1
            return -self.operand() % PRIME
        return self.operand()

    def operand(self) -> int:
        """A number, a variable, a function with its argument, or a bracket; 1 where there is nothing."""
        token = self.run[self.at]
        if token.kind in ("n", "v"):
            self.at += 1
            return _number(token.value) if token.kind == "n" else _symbol(token.value)
        if token.value == "|":
            self.at += 1
            return _symbol("|")
        if token.kind not in ("f", "c") and token.value not in OPENING:
            return 1
        if self.depth >= DEEPEST:
            return self.skip()
        self.depth += 1
        if token.value in OPENING:
            mark = _single(self.bracket())
        else:
            self.at += 1
            mark = self.function(token.value) if token.kind == "f" else self.command(token.value)
        self.depth -= 1
        return mark

    def function(self, name: str) -> int:
        """A function's argument, after a power or base of its own: sin^2 x, log_2 8."""
        own = [name]
        marks = []
        while self.run[self.at].value in ("^", "_"):
            own.append(self.run[self.at].value)
            self.at += 1
            marks.append(self.signed_operand())
        arguments = self.bracket() if self.run[self.at].value in OPENING else [self.postfix()]
        if name in SYMMETRIC:
            arguments = sorted(arguments)
        return _mix("".join(own), *marks, *arguments)

    def command(self, name: str) -> int:
        """A fraction, a root or a binomial coefficient with its arguments."""
        if name == "sqrt":
            degree = self.bracket() if self.run[self.at].value == "[" else []
            return _mix("sqrt", *degree, self.operand())
        first, second = self.operand(), self.operand()
        return _quotient(first, second) if name == "frac" else _mix("binom", first, second)

    def bracket(self) -> list[int]:
        """The parts of a bracket, between commas or relations; the end of the run closes it."""
        self.at += 1
        parts: list[int] = []
        while self.at < self.end:
            start = self.at
            parts.append(self.sum())
            token = self.run[self.at]
            if token.value in CLOSING:
                self.at += 1
                break
            if token.value == "," or token.kind == "r" or self.at == start:
                parts += [_symbol(token.value)] if token.kind == "r" else []
                self.at += 1
        return parts

    def skip(self) -> int:
        """The rest of the run as one opaque symbol."""
        rest = [_symbol(token.value) for token in self.run[self.at : self.end]]
        self.at = self.end
        return _mix("...", *rest)


def _single(parts: Sequence[int]) -> int:
    return parts[0] if len(parts) == 1 else _mix(",", *parts)


def _quotient(top: int, bottom: int) -> int:
    return top * pow(bottom, -1, PRIME) % PRIME if bottom else _mix("/", top)


def _side(mark: int, run: Run) -> Side:
    """The side that these tokens make; leaves that stand side by side are multiplied."""
    leaves: list[Token] = []
    operations: set[str] = set()
    signed = False
    before = END
    for token in run:
        leaf = token.kind in ("n", "v")
        if leaf:
            leaves.append(token)
        elif token.value not in BRACKETS:
            signed = True
        if token.value in OPERATIONS:
            operations.add(OPERATIONS[token.value])
        elif _beside(before, token):
            operations.add("*")
        before = token
    return Side(mark, tuple(leaves), frozenset(operations), signed)


def _beside(before: Token, token: Token) -> bool:
    """Whether two tokens that stand side by side are factors; a variable before a bracket may be a function."""
    if token.value == "(":
        return before.kind == "n" or before.value == ")"
    return token.kind in ("n", "v", "f", "c") and (before.kind in ("n", "v") or before.value in (")", "}"))
