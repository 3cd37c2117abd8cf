r"""Half A, to develop on: other scenes, sentences and notations than half B.

Every draw is right by construction: numbers are computed, never typed. Leaves out real solutions (`real`).
"""

# ruff: noqa: E501 (a line holds a clause of a sentence: broken inside, its edits would not be seen)

from __future__ import annotations

import random

from gaming.item import Item, Template, edit


def baskets(rng: random.Random) -> Item:
    n, each, eaten = rng.randint(3, 9), rng.randint(11, 29), rng.randint(3, 9)
    all_, left = n * each, n * each - eaten
    expert = f"There are {n} baskets with {each} apples each, which is {n} * {each} = {all_} apples. After {eaten} are eaten, {all_} - {eaten} = {left} remain."
    plain = f"{n} baskets of {each} apples hold {n} × {each} = {all_} apples in total; {eaten} were eaten, leaving {all_} − {eaten} = {left}."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "latex": rf"There are ${n}$ baskets with ${each}$ apples each, which is ${n} \times {each} = {all_}$ apples. After ${eaten}$ are eaten, ${all_} - {eaten} = {left}$ remain.",
            "reorder": f"{all_} - {eaten} = {left} apples remain once {eaten} have been eaten, since {n} baskets with {each} each are {each} * {n} = {all_} apples.",
        },
        {
            "digit": edit(expert, f"= {left} remain", f"= {left + 3} remain"),
            "operator": edit(expert, f"{n} * {each}", f"{n} + {each}"),
            "off-by-one": edit(expert, f"= {all_} apples", f"= {all_ + 1} apples"),
        },
        {"digit": edit(plain, f"= {left}.", f"= {left - 10}.")},
    )


def linear(rng: random.Random) -> Item:
    a, x, b = rng.randint(2, 9), rng.randint(3, 15), rng.randint(2, 19)
    c = a * x + b
    expert = f"Subtract {b} from both sides of {a}x + {b} = {c} to get {a}x = {c - b}, then divide by {a}: x = {x}."
    plain = rf"Taking ${b}$ away on either side of ${a}x + {b} = {c}$ leaves ${a}x = {c - b}$. Division by ${a}$ gives $x = {x}$."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "flipped": f"Subtract {b} from both sides of {c} = {b} + {a}x to get {c - b} = {a}x, then divide by {a}: {x} = x.",
            "fraction": rf"From ${a}x + {b} = {c}$, subtracting ${b}$ yields ${a}x = {c - b}$ and hence $x = \frac{{{c - b}}}{{{a}}} = {x}$.",
        },
        {
            "sign": edit(expert, f"{a}x + {b}", f"{a}x - {b}"),
            "variable": edit(expert, f": x = {x}", f": y = {x}"),
            "off-by-one": edit(expert, f": x = {x}.", f": x = {x + 1}."),
            "verb": edit(expert, "Subtract", "Add"),
        },
        {"sign": edit(plain, f"$x = {x}$", f"$x = -{x}$")},
    )


def factoring(rng: random.Random) -> Item:
    p, q = rng.randint(2, 6), rng.randint(7, 12)
    expert = rf"We factor $x^2 - {p + q}x + {p * q} = (x - {p})(x - {q})$, so the roots are $x = {p}$ and $x = {q}$."
    plain = f"Since x² − {p + q}x + {p * q} = (x − {p})(x − {q}), it vanishes exactly for x = {p} or x = {q}."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "commuted": rf"The factorization $x^{{2}} - {p + q}x + {p * q} = (x-{q})(x-{p})$ shows that the roots are $x={q}$ and $x={p}$.",
            "left-right": rf"We factor $x^2 - {p + q}x + {p * q} = \left(x - {p}\right)\left(x - {q}\right)$; therefore the two solutions are $x = {p}$, $x = {q}$.",
        },
        {
            "sign": edit(expert, f"(x - {p})", f"(x + {p})"),
            "digit": edit(expert, f"$x = {q}$", f"$x = {q + 2}$"),
            "exponent": edit(expert, "x^2", "x^3"),
            "exchange": edit(expert, f"$x^2 - {p + q}x + {p * q} =", f"$x^2 - {p * q}x + {p + q} ="),
        },
        {"digit": edit(plain, f"+ {p * q} ", f"+ {p * q + 1} ")},
    )


def rectangle(rng: random.Random) -> Item:
    w, k = rng.randint(3, 12), rng.randint(2, 4)
    length = k * w
    around = 2 * (w + length)
    expert = rf"The garden is $w = {w}$ m wide and $l = {k}w = {length}$ m long, so its perimeter is $2(l + w) = 2({length} + {w}) = {around}$ m."
    plain = f"With width w = {w} and length l = {k}w = {length}, the fence around the garden measures 2({w} + {length}) = {around} metres."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "cdot": rf"The garden is $w={w}$ m wide and $l={k}\cdot w={length}$ m long; hence its perimeter equals $2 \cdot (w+l) = 2 \cdot ({w}+{length}) = {around}$ m.",
            "bare": f"The garden is w = {w} m wide and l = {k}w = {length} m long, so its perimeter is 2(l + w) = 2({length} + {w}) = {around} m.",
        },
        {
            "digit": edit(expert, f"= {around}$", f"= {around + 2}$"),
            "variable": edit(expert, f"$l = {k}w", f"$l = {k}l"),
            "operator": edit(expert, f"({length} + {w})", f"({length} - {w})"),
        },
        {"off-by-one": edit(plain, f"= {around} m", f"= {around - 1} m")},
    )


def angles(rng: random.Random) -> Item:
    a, b = rng.sample(range(31, 80), 2)
    c = 180 - a - b
    expert = rf"The angles of a triangle sum to $180^\circ$, so the third angle is $180^\circ - {a}^\circ - {b}^\circ = {c}^\circ$."
    plain = (
        f"Because a triangle's angles add up to 180 degrees, the remaining one measures 180 - {a} - {b} = {c} degrees."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "unicode": f"The angles of a triangle sum to 180°, so the third angle is 180° − {a}° − {b}° = {c}°.",
            "bracket": rf"The third angle is $180^{{\circ}} - ({a}^{{\circ}} + {b}^{{\circ}}) = {c}^{{\circ}}$ as the angles of a triangle sum to $180^{{\circ}}$.",
        },
        {
            "digit": edit(expert, rf"= {c}^\circ", rf"= {c + 10}^\circ"),
            "sign": edit(expert, rf"- {b}^\circ", rf"+ {b}^\circ"),
        },
        {"digit": edit(plain, f"= {c} degrees", f"= {c + 1} degrees")},
    )


def handshakes(rng: random.Random) -> Item:
    n = rng.randint(7, 25)
    pairs = n * (n - 1) // 2
    expert = rf"Each of the {n} guests shakes hands with {n - 1} others, and every handshake is counted twice, so there are $\frac{{{n} \cdot {n - 1}}}{{2}} = {pairs}$ handshakes."
    plain = f"There are {n} guests with {n - 1} partners each; halving because of double counting gives {n} * {n - 1} / 2 = {pairs} handshakes."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "dfrac": rf"Each of the ${n}$ guests shakes hands with ${n - 1}$ others, and every handshake is counted twice, so there are $\dfrac{{{n}({n - 1})}}{{2}}={pairs}$ handshakes.",
            "commuted": rf"The number of handshakes is $\frac{{{n - 1} \times {n}}}{{2}} = {pairs}$, for each of the {n} guests shakes hands with {n - 1} others and each handshake is counted twice.",
        },
        {
            "digit": edit(expert, f"with {n - 1} others", f"with {n} others"),
            "off-by-one": edit(expert, f"= {pairs}$", f"= {pairs + 1}$"),
            "operator": edit(expert, rf"{n} \cdot {n - 1}", rf"{n} + {n - 1}"),
        },
        {"digit": edit(plain, f"= {pairs} ", f"= {2 * pairs} ")},
    )


def clock(rng: random.Random) -> Item:
    start, hours = rng.randint(1, 11), rng.randint(50, 200)
    rest, end = hours % 12, (start + hours) % 12
    expert = rf"Since ${hours} \equiv {rest} \pmod{{12}}$, the clock shows ${start} + {rest} \equiv {end} \pmod{{12}}$."
    plain = f"Modulo 12, {hours} hours are {rest} hours, so starting at {start} the hand points to {start} + {rest} ≡ {end} (mod 12)."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "commuted": rf"The clock shows ${rest} + {start} \equiv {end} \pmod{{12}}$ because ${hours} \equiv {rest} \pmod{{12}}$.",
            "bare": f"As {hours} ≡ {rest} (mod 12), the clock shows {start} + {rest} ≡ {end} (mod 12).",
        },
        {
            "digit": edit(expert, rf"{rest} \pmod{{12}}$, the", rf"{rest} \pmod{{24}}$, the"),
            "off-by-one": edit(expert, rf"\equiv {end} ", rf"\equiv {end + 1} "),
            "sign": edit(expert, f"${start} + {rest}", f"${start} - {rest}"),
        },
        {"off-by-one": edit(plain, f"≡ {end} (", f"≡ {end + 2} (")},
    )


def ages(rng: random.Random) -> Item:
    young, k, later = rng.randint(4, 9), rng.randint(3, 5), rng.randint(2, 8)
    old = k * young
    word = {3: "three", 4: "four", 5: "five"}[k]
    expert = f"Mia is {young} years old and her aunt is {word} times as old, that is {k} × {young} = {old}. In {later} years the aunt will be {old} + {later} = {old + later}."
    plain = f"The aunt's age is {k} times Mia's age of {young}, or {old}; {later} years from now it will be {old + later}, because {old} + {later} = {old + later}."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "latex": rf"Mia is ${young}$ years old and her aunt is ${k}$ times as old, that is ${k} \cdot {young} = {old}$. In ${later}$ years the aunt will be ${old} + {later} = {old + later}$.",
        },
        {
            "number word": edit(expert, word, {3: "four", 4: "five", 5: "six"}[k]),
            "off-by-one": edit(expert, f"+ {later} = {old + later}", f"+ {later} = {old + later - 1}"),
            "operator": edit(expert, f"{k} × {young}", f"{k} + {young}"),
            "digit": edit(expert, f"In {later} years", f"In {later + 1} years"),
        },
        {"operator": edit(plain, f"because {old} + {later}", f"because {old} - {later}")},
    )


def dice(rng: random.Random) -> Item:
    total = rng.randint(4, 6)
    ways = total - 1
    listed = ", ".join(f"({i}, {total - i})" for i in range(1, total))
    expert = rf"The pairs with sum {total} are {listed}; that is {ways} of 36 outcomes, so the probability is $\frac{{{ways}}}{{36}}$."
    plain = f"A sum of {total} comes from {listed}, hence {ways} outcomes among 36 and a probability of {ways}/36."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "tfrac": rf"So the probability is $\tfrac{{{ways}}}{{36}}$: the pairs with sum ${total}$ are ${listed}$, that is ${ways}$ of $36$ outcomes.",
        },
        {
            "digit": edit(expert, rf"\frac{{{ways}}}{{36}}", rf"\frac{{{ways}}}{{12}}"),
            "off-by-one": edit(expert, f"is {ways} of", f"is {ways + 1} of"),
        },
        {"digit": edit(plain, f"of {ways}/36.", f"of {ways + 2}/36.")},
    )


def series(rng: random.Random) -> Item:
    n, d, first = rng.randint(9, 30), rng.randint(2, 7), rng.randint(1, 9)
    last = first + (n - 1) * d
    expert = rf"The last term is $a_{{{n}}} = {first} + ({n} - 1) \cdot {d} = {last}$."
    plain = (
        f"Going {n} - 1 steps of {d} up from {first} we reach the last term, a_{n} = {first} + ({n} - 1)*{d} = {last}."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "commuted": rf"The last term is $a_{{{n}}} = {first} + {d}({n} - 1) = {last}$.",
            "words": rf"For the final term of the sequence we obtain $a_{{{n}}} = ({n} - 1) \times {d} + {first} = {last}$.",
        },
        {
            "sign": edit(expert, f"{n} - 1", f"{n} + 1"),
            "digit": edit(expert, rf"\cdot {d} =", rf"\cdot {d + 1} ="),
            "off-by-one": edit(expert, f"= {last}$", f"= {last + 1}$"),
            "exchange": edit(expert, f"({n} - 1)", f"(1 - {n})"),
        },
        {"digit": edit(plain, f"= {last}.", f"= {last + d}.")},
    )


def substitution(rng: random.Random) -> Item:
    m, c, x = rng.randint(2, 7), rng.randint(2, 12), rng.randint(2, 9)
    y = m * x + c
    expert = f"Substituting x = {x} into y = {m}x + {c} gives y = {m}({x}) + {c} = {m * x} + {c} = {y}."
    plain = rf"If $x = {x}$, then $y = {m}x + {c}$ becomes $y = {m} \cdot {x} + {c} = {m * x} + {c} = {y}$."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "shorter": rf"Plugging $x={x}$ into $y={m}x+{c}$ we obtain $y={m}\cdot{x}+{c}={y}$.",
            "commuted": f"We put x = {x} in y = {c} + {m}x and obtain y = {c} + {m}*{x} = {c} + {m * x} = {y}.",
        },
        {
            "variable": edit(expert, f"into y = {m}x", f"into x = {m}y"),
            "operator": edit(expert, f"{m * x} + {c}", f"{m * x} * {c}"),
            "digit": edit(expert, f"= {y}.", f"= {y + 4}."),
        },
        {"off-by-one": edit(plain, f"= {y}$", f"= {y - 1}$")},
    )


def inequality(rng: random.Random) -> Item:
    a, n = rng.randint(3, 9), rng.randint(4, 15)
    expert = f"We need {a}n > {a * n}, which means n > {n}; the smallest integer with this property is n = {n + 1}."
    plain = rf"${a}n > {a * n}$ is equivalent to $n > {n}$, so the least integer that works is $n = {n + 1}$."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "flipped": rf"We need ${a * n} < {a}n$, which means ${n} < n$. Thus $n = {n + 1}$ is the smallest integer with this property.",
            "gt": rf"Requiring \({a}n \gt {a * n}\), i.e. \(n \gt {n}\), we find \(n = {n + 1}\) to be the smallest such integer.",
        },
        {
            "relation": edit(expert, f"n > {n};", f"n < {n};"),
            "off-by-one": edit(expert, f"n = {n + 1}.", f"n = {n + 2}."),
            "word": edit(expert, "smallest", "largest"),
        },
        {"relation": edit(plain, f"$n > {n}$", f"$n < {n}$")},
    )


def cube(rng: random.Random) -> Item:
    s = rng.randint(3, 12)
    expert = rf"A cube with edge length ${s}$ has volume $V = {s}^3 = {s**3}$ and surface area $S = 6 \cdot {s}^2 = {6 * s * s}$."
    plain = f"For an edge of {s} the cube's volume is V = {s}³ = {s**3}, and its surface measures S = 6 × {s}² = {6 * s * s}."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "reorder": rf"The cube, with edge length ${s}$, has surface area $S = 6 \times {s}^{{2}} = {6 * s * s}$ and volume $V = {s}^{{3}} = {s**3}$.",
        },
        {
            "exponent": edit(expert, f"{s}^3", f"{s}^2"),
            "digit": edit(expert, f"^3 = {s**3}$", f"^3 = {s**3 + 100}$"),
            "variable": edit(expert, "$S = 6", "$V = 6"),
            "exchange": edit(edit(expert, "$V =", "$Q ="), "$S =", "$V =").replace("$Q =", "$S ="),
        },
        {"digit": edit(plain, f"= {6 * s * s}.", f"= {4 * s * s}.")},
    )


def mixture(rng: random.Random) -> Item:
    part, whole = rng.choice([(1, 4), (3, 4), (1, 2), (1, 5), (2, 5)]), 20 * rng.randint(2, 9)
    got = part[0] * whole // part[1]
    expert = rf"Salt makes up $\frac{{{part[0]}}}{{{part[1]}}}$ of the {whole} grams, i.e. $\frac{{{part[0]}}}{{{part[1]}}} \cdot {whole} = {got}$ grams."
    plain = f"Of {whole} grams, {part[0]}/{part[1]} is salt, so the amount of salt is {part[0]}/{part[1]} * {whole} = {got} grams."
    value = part[0] / part[1]
    return Item(
        expert,
        {
            "paraphrase": plain,
            "decimal": f"Salt makes up {value} of the {whole} grams, i.e. {value} * {whole} = {got} grams.",
            "percent": rf"Salt makes up ${round(100 * value)}\%$ of the ${whole}$ grams, which is $\frac{{{part[0]}}}{{{part[1]}}} \times {whole} = {got}$ grams.",
        },
        {
            "digit": edit(expert, f"of the {whole}", f"of the {whole + 20}"),
            "off-by-one": edit(expert, f"= {got}$", f"= {got + 1}$"),
            "operator": edit(expert, rf"\cdot {whole}", rf"+ {whole}"),
        },
        {"digit": edit(plain, f"= {got} ", f"= {got + 10} ")},
    )


def root(rng: random.Random) -> Item:
    n, k = rng.randint(2, 9), rng.choice([2, 3, 5, 7])
    expert = rf"Simplify the root: $\sqrt{{{n * n * k}}} = \sqrt{{{n * n} \cdot {k}}} = {n}\sqrt{{{k}}}$."
    plain = f"We can pull a square out of the radical, sqrt({n * n * k}) = sqrt({n * n}*{k}) = {n}*sqrt({k})."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "unicode": f"Simplify the root: √({n * n * k}) = √({n * n}·{k}) = {n}√{k}.",
            "commuted": rf"Simplifying, $\sqrt{{{n * n * k}}} = \sqrt{{{k} \cdot {n * n}}} = {n} \cdot \sqrt{{{k}}}$.",
        },
        {
            "digit": edit(expert, rf"= {n}\sqrt", rf"= {n + 1}\sqrt"),
            "operator": edit(expert, rf"{n * n} \cdot {k}", rf"{n * n} + {k}"),
            "sign": edit(expert, rf"= {n}\sqrt", rf"= -{n}\sqrt"),
        },
        {"digit": edit(plain, f"= {n}*", f"= {n * n}*")},
    )


def parity(rng: random.Random) -> Item:
    k = rng.choice(["k", "m", "j"])
    expert = rf"Let $n = 2{k} + 1$ be odd. Then $n^2 = (2{k} + 1)^2 = 4{k}^2 + 4{k} + 1$ is odd as well."
    plain = f"An odd n can be written n = 2{k} + 1, and squaring gives n² = (2{k} + 1)² = 4{k}² + 4{k} + 1, again odd."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "commuted": rf"Let $n=1+2{k}$ be odd; then also $n^{{2}}=(1+2{k})^{{2}}=1+4{k}+4{k}^{{2}}$ is odd.",
        },
        {
            "sign": edit(expert, f"+ 4{k} + 1", f"+ 4{k} - 1"),
            "exponent": edit(expert, f"4{k}^2", f"4{k}^3"),
            "word": edit(expert, "is odd as well", "is even as well"),
            "digit": edit(expert, f"+ 4{k} +", f"+ 2{k} +"),
        },
        {"sign": edit(plain, f"n = 2{k} + 1", f"n = 2{k} - 1")},
    )


TEMPLATES: tuple[Template, ...] = (
    baskets, linear, factoring, rectangle, angles, handshakes, clock, ages, dice, series, substitution, inequality, cube,
    mixture, root, parity,
)  # fmt: skip
