r"""Half B, hidden, second part (see `half_b`): sets, remainders, probability, series, inequalities, derivatives."""

# ruff: noqa: E501 (a line holds a clause of a sentence: broken inside, its edits would not be seen)

from __future__ import annotations

import random
from math import gcd

from gaming.item import Item, Template, edit


def clubs(rng: random.Random) -> Item:
    both = rng.randint(3, 9)
    chess, drama = both + rng.randint(11, 20), both + rng.randint(21, 30)
    union = chess + drama - both
    expert = (
        rf"By inclusion-exclusion, $|C \cup D| = |C| + |D| - |C \cap D| = {chess} + {drama} - {both} = {union}$ pupils are in "
        rf"at least one club."
    )
    plain = (
        f"The {both} pupils in both clubs are counted twice, so the number in at least one of the clubs is "
        f"{chess} + {drama} - {both} = {union}."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "commuted": rf"Inclusion-exclusion gives $|C \cup D| = |D| + |C| - |C \cap D| = {drama} + {chess} - {both} = {union}$ "
            rf"for the pupils who are in at least one club.",
            "inline": rf"By inclusion-exclusion, \(|C \cup D| = |C| + |D| - |C \cap D| = {chess}+{drama}-{both} = {union}\) "
            rf"pupils belong to one club or more.",
        },
        {
            "sign": edit(expert, f"{drama} - {both}", f"{drama} + {both}"),
            "digit": edit(expert, f"= {union}$", f"= {union + 2}$"),
            "operator": edit(expert, r"|C| + |D|", r"|C| - |D|"),
        },
        {"off-by-one": edit(plain, f"= {union}.", f"= {union - 1}.")},
    )


def remainder(rng: random.Random) -> Item:
    m, q = rng.randint(6, 12), rng.randint(13, 40)
    r = rng.randint(1, m - 2)
    n = m * q + r
    expert = rf"Since ${n} = {m} \cdot {q} + {r}$, we have ${n} \equiv {r} \pmod{{{m}}}$."
    plain = (
        f"Dividing {n} by {m} gives quotient {q} and remainder {r}, i.e. {n} = {m}*{q} + {r} and {n} ≡ {r} (mod {m})."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "commuted": rf"From ${n} = {r} + {q} \cdot {m}$ it follows that ${n} \equiv {r} \pmod {{{m}}}$.",
            "bmod": rf"Because ${n} = {m} \times {q} + {r}$, it holds that ${n} \equiv {r} \ (\mathrm{{mod}}\ {m})$.",
        },
        {
            "digit": edit(expert, rf"\pmod{{{m}}}", rf"\pmod{{{m - 1}}}"),
            "off-by-one": edit(expert, rf"\equiv {r} ", rf"\equiv {r + 1} "),
            "sign": edit(expert, f"+ {r}$", f"- {r}$"),
        },
        {"digit": edit(plain, f"≡ {r} (", f"≡ {r + 1} (")},
    )


def last_digit(rng: random.Random) -> Item:
    e = rng.randint(21, 98)
    base = rng.choice([3, 7])
    digit = pow(base, e, 10)
    rest = e % 4
    shown = pow(base, rest) if rest else 1
    expert = (
        f"The last digits of powers of {base} repeat with period 4. As {e} leaves remainder {rest} on division by 4, the last "
        f"digit of {base}^{e} is that of {base}^{rest} = {shown}, namely {digit}."
    )
    plain = (
        rf"The units digit of ${base}^n$ has a cycle of length $4$, and ${e} \equiv {rest} \pmod 4$; so ${base}^{{{e}}}$ ends "
        rf"in the same digit as ${base}^{{{rest}}} = {shown}$, which is ${digit}$."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "latex": rf"The last digits of powers of ${base}$ repeat with period $4$. As ${e}$ leaves remainder ${rest}$ on division "
            rf"by $4$, the last digit of ${base}^{{{e}}}$ is that of ${base}^{{{rest}}} = {shown}$, namely ${digit}$.",
            "reorder": f"{e} leaves remainder {rest} on division by 4, and the last digits of powers of {base} repeat with period "
            f"4. Hence {base}^{e} has the last digit of {base}^{rest} = {shown}, i.e. {digit}.",
        },
        {
            "digit": edit(expert, f"namely {digit}.", f"namely {(digit + 2) % 10}."),
            "exponent": edit(expert, f"{base}^{e}", f"{base}^{e + 10}"),
        },
        {"off-by-one": edit(plain, rf"\equiv {rest} ", rf"\equiv {rest + 1} ")},
    )


def marbles(rng: random.Random) -> Item:
    red, total = rng.randint(3, 7), rng.randint(11, 17)
    top, bottom = red * (red - 1), total * (total - 1)
    g = gcd(top, bottom)
    expert = (
        rf"Drawing two red marbles without replacement has probability "
        rf"$\frac{{{red}}}{{{total}}} \cdot \frac{{{red - 1}}}{{{total - 1}}} = \frac{{{top}}}{{{bottom}}} = \frac{{{top // g}}}{{{bottom // g}}}$."
    )
    plain = (
        f"The first marble is red with probability {red}/{total} and then the second with {red - 1}/{total - 1}, so both are "
        f"red with probability {red}/{total} * {red - 1}/{total - 1} = {top}/{bottom} = {top // g}/{bottom // g}."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "slash": f"Drawing two red marbles without replacement has probability ({red}/{total}) · ({red - 1}/{total - 1}) = "
            f"{top}/{bottom} = {top // g}/{bottom // g}.",
            "tfrac": rf"Without replacement, the probability that two red marbles are drawn is "
            rf"$\tfrac{{{red}}}{{{total}}} \times \tfrac{{{red - 1}}}{{{total - 1}}} = \tfrac{{{top}}}{{{bottom}}} = \tfrac{{{top // g}}}{{{bottom // g}}}$.",
        },
        {
            "digit": edit(expert, rf"\frac{{{red - 1}}}{{{total - 1}}}", rf"\frac{{{red - 1}}}{{{total}}}"),
            "operator": edit(expert, r"} \cdot \frac", r"} + \frac"),
        },
        {"digit": edit(plain, f"with {red - 1}/{total - 1},", f"with {red}/{total - 1},")},
    )


def geometric(rng: random.Random) -> Item:
    a, r, n = rng.randint(3, 9), rng.choice([2, 3]), rng.randint(5, 7)
    total = a * (r**n - 1) // (r - 1)
    expert = (
        rf"The sum of the first ${n}$ terms is $S_{{{n}}} = a \cdot \frac{{r^{{{n}}} - 1}}{{r - 1}} = "
        rf"{a} \cdot \frac{{{r}^{{{n}}} - 1}}{{{r} - 1}} = {total}$."
    )
    plain = (
        f"Using the formula for a geometric series with {n} terms, S_{n} = a(r^{n} - 1)/(r - 1) = "
        f"{a}({r}^{n} - 1)/({r} - 1) = {total}."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "dfrac": rf"Adding up the first ${n}$ terms yields $S_{n} = \dfrac{{a(r^{n} - 1)}}{{r-1}} = "
            rf"\dfrac{{{a}({r}^{n} - 1)}}{{{r}-1}} = {total}$.",
        },
        {
            "sign": edit(expert, rf"{{{r} - 1}} =", rf"{{{r} + 1}} ="),
            "digit": edit(expert, f"= {total}$", f"= {total + 10}$"),
            "variable": edit(expert, r"= a \cdot", r"= n \cdot"),
        },
        {"exponent": edit(plain, f"({r}^{n} - 1)", f"({r}^{n + 1} - 1)")},
    )


def mean(rng: random.Random) -> Item:
    scores = [rng.randint(51, 98) for _ in range(3)]
    target = rng.randint(70, 80)
    need = 4 * target - sum(scores)
    listed = " + ".join(map(str, scores))
    expert = (
        f"For an average of {target} over four tests the total must be 4 × {target} = {4 * target}. The first three sum to "
        f"{listed} = {sum(scores)}, so the fourth score is {4 * target} − {sum(scores)} = {need}."
    )
    plain = (
        rf"Four tests averaging ${target}$ need a total of $4 \cdot {target} = {4 * target}$; the three known scores add up to "
        rf"${listed} = {sum(scores)}$, leaving ${4 * target} - {sum(scores)} = {need}$ for the last one."
    )
    back = " + ".join(map(str, reversed(scores)))
    return Item(
        expert,
        {
            "paraphrase": plain,
            "reorder": f"The first three tests sum to {back} = {sum(scores)}, while an average of {target} over four needs "
            f"{target} × 4 = {4 * target} in total. So the fourth score is {4 * target} - {sum(scores)} = {need}.",
        },
        {
            "off-by-one": edit(expert, f"= {need}.", f"= {need - 1}."),
            "operator": edit(expert, f"{4 * target} − {sum(scores)}", f"{4 * target} + {sum(scores)}"),
            "digit": edit(expert, f"average of {target} over", f"average of {target + 3} over"),
        },
        {"digit": edit(plain, f"= {sum(scores)}$", f"= {sum(scores) + 10}$")},
    )


def bound(rng: random.Random) -> Item:
    k, t = rng.randint(3, 9), rng.randint(2, 15)
    c = rng.randint(5, 30)
    left = k * t + c
    expert = (
        rf"From $-{k}t + {left} \ge {c}$ we get $-{k}t \ge -{k * t}$; dividing by the negative number $-{k}$ turns the sign "
        rf"around, so $t \le {t}$."
    )
    plain = (
        f"Moving {left} across, the inequality -{k}t + {left} >= {c} becomes -{k}t >= -{k * t}, and after division by "
        f"-{k} (negative, hence the direction flips) t <= {t}."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "geq": rf"From $-{k}t + {left} \geq {c}$ we get $-{k}t \geq -{k * t}$; dividing by the negative number $-{k}$ "
            rf"reverses the sign, thus $t \leq {t}$.",
            "flipped": rf"From ${c} \le {left} - {k}t$ we get $-{k * t} \le -{k}t$; dividing by the negative number $-{k}$ turns "
            rf"the sign around, so ${t} \ge t$.",
        },
        {
            "relation": edit(expert, rf"$t \le {t}$", rf"$t \ge {t}$"),
            "sign": edit(expert, rf"\ge -{k * t}$", rf"\ge {k * t}$"),
            "off-by-one": edit(expert, rf"$t \le {t}$", rf"$t \le {t + 1}$"),
        },
        {"sign": edit(plain, f"t <= {t}.", f"t <= -{t}.")},
    )


def derivative(rng: random.Random) -> Item:
    a, b, n = rng.randint(2, 6), rng.randint(7, 15), rng.randint(3, 5)
    expert = rf"Differentiating $f(x) = {a}x^{n} - {b}x$ gives $f'(x) = {a * n}x^{{{n - 1}}} - {b}$."
    plain = f"The derivative of f(x) = {a}x^{n} - {b}x is f'(x) = {a * n}x^{n - 1} - {b} by the power rule."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "commuted": rf"We take the derivative of $f(x) = -{b}x + {a}x^{{{n}}}$ and obtain $f'(x) = -{b} + {a * n}x^{{{n - 1}}}$.",
            "prime": rf"Differentiating $f(x)={a}x^{{{n}}}-{b}x$ yields $f^{{\prime}}(x)={a * n} x^{n - 1}-{b}$.",
        },
        {
            "exponent": edit(expert, f"x^{{{n - 1}}}", f"x^{{{n}}}"),
            "sign": edit(expert, f"}} - {b}$", f"}} + {b}$"),
            "digit": edit(expert, f"= {a * n}x", f"= {a * n + 1}x"),
        },
        {"digit": edit(plain, f"= {a * n}x^{n - 1} - {b} ", f"= {a * n}x^{n - 1} - {b + 5} ")},
    )


def common_divisor(rng: random.Random) -> Item:
    p, q, g = *rng.choice([(5, 7), (5, 11), (7, 11), (7, 13)]), rng.choice([12, 18, 24])
    m, n = p * g, q * g
    lcm = m * n // gcd(m, n)
    expert = (
        rf"Using $\gcd({m}, {n}) = {g}$ we find $\operatorname{{lcm}}({m}, {n}) = \frac{{{m} \cdot {n}}}{{{g}}} = {lcm}$, so both "
        rf"lights flash together again after {lcm} seconds."
    )
    plain = (
        f"The greatest common divisor of {m} and {n} is {g}; therefore their least common multiple is {m} * {n} / {g} = {lcm}, "
        f"and after {lcm} seconds the lights coincide once more."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "commuted": rf"Using $\gcd({n}, {m}) = {g}$ we find $\text{{lcm}}({n}, {m}) = \frac{{{n} \cdot {m}}}{{{g}}} = {lcm}$; after "
            rf"${lcm}$ seconds both lights flash together again.",
            "separator": rf"Using gcd({m}, {n}) = {g} we find lcm({m}, {n}) = {m} × {n} ÷ {g} = {lcm:,}, so both lights flash "
            rf"together again after {lcm:,} seconds.",
        },
        {
            "digit": edit(expert, rf"= {g}$", rf"= {g + 2}$"),
            "operator": edit(expert, rf"{m} \cdot {n}}}", rf"{m} + {n}}}"),
        },
        {"digit": edit(plain, f"= {lcm},", f"= {lcm + 7},")},
    )


def savings(rng: random.Random) -> Item:
    capital, rate = 1000 * rng.randint(2, 9), rng.choice([2, 3, 4, 5])
    interest = capital * rate // 100
    expert = (
        f"After the first year the account earns {rate}% of ${capital:,}, which is ${interest}, and so it holds "
        f"${capital:,} + ${interest} = ${capital + interest:,}."
    )
    plain = (
        f"One year's interest at {rate} percent on {capital} dollars amounts to {interest} dollars; the new balance is "
        f"{capital} + {interest} = {capital + interest} dollars."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "latex": rf"After the first year the account earns ${rate}\%$ of ${capital // 1000}{{,}}000$ dollars, which is "
            rf"${interest}$ dollars, and so it holds ${capital} + {interest} = {capital + interest}$ dollars.",
            "commuted": f"The account earns ${interest} in the first year, since that is {rate}% of ${capital:,}; it then holds "
            f"${interest} + ${capital:,} = ${capital + interest:,}.",
        },
        {
            "digit": edit(expert, f"is ${interest},", f"is ${interest + 10},"),
            "off-by-one": edit(expert, f"earns {rate}%", f"earns {rate + 1}%"),
        },
        {"operator": edit(plain, f"{capital} + {interest}", f"{capital} - {interest}")},
    )


TEMPLATES: tuple[Template, ...] = (
    clubs,
    remainder,
    last_digit,
    marbles,
    geometric,
    mean,
    bound,
    derivative,
    common_divisor,
    savings,
)
