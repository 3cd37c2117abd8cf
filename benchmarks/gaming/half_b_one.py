r"""Half B, hidden, first part (see `half_b`): shopping, travel, algebra, geometry, counting."""

# ruff: noqa: E501 (a line holds a clause of a sentence: broken inside, its edits would not be seen)

from __future__ import annotations

import random
from math import comb, factorial

from gaming.item import Item, Template, edit


def discount(rng: random.Random) -> Item:
    rate, price = rng.choice([10, 20, 25, 40]), 20 * rng.randint(3, 19)
    off = rate * price // 100
    pay = price - off
    expert = (
        f"The jacket is marked at {price} dollars and reduced by {rate}%. The reduction is {rate / 100} × {price} = {off} "
        f"dollars, so the sale price is {price} - {off} = {pay} dollars."
    )
    plain = (
        f"A {rate}% markdown on a {price}-dollar jacket takes away {rate / 100} * {price} = {off} dollars; "
        f"what is left to pay is {price} - {off} = {pay} dollars."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "latex": rf"The reduction of ${rate}\%$ on ${price}$ dollars is ${rate / 100} \times {price} = {off}$ dollars, "
            rf"so the sale price is ${price} - {off} = {pay}$ dollars.",
            "reorder": f"The sale price is {price} - {off} = {pay} dollars: the jacket is marked at {price} dollars, and a "
            f"reduction by {rate}% is {rate / 100} × {price} = {off} dollars.",
        },
        {
            "digit": edit(expert, f"= {pay} dollars.", f"= {pay + 10} dollars."),
            "operator": edit(expert, f"{price} - {off}", f"{price} + {off}"),
        },
        {"digit": edit(plain, f"= {pay} dollars.", f"= {pay - 2} dollars.")},
    )


def journey(rng: random.Random) -> Item:
    speed, hours, stop = rng.randint(41, 89), rng.randint(3, 8), rng.randint(11, 39)
    way = speed * hours
    expert = (
        f"Travelling at {speed} km/h for {hours} hours, the train covers {speed}·{hours} = {way} km. "
        f"Together with the first {stop} km the whole trip is {way} + {stop} = {way + stop} km."
    )
    plain = (
        f"In {hours} hours at {speed} km/h the train gets {way} km far, since {hours} * {speed} = {way}. "
        f"Adding the initial {stop} km gives {way + stop} km altogether."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "latex": rf"Travelling at ${speed}$ km/h for ${hours}$ hours, the train covers ${speed} \cdot {hours} = {way}$ km. "
            rf"Together with the first ${stop}$ km the whole trip is ${way} + {stop} = {way + stop}$ km.",
            "commuted": f"The train travels {hours} hours at {speed} km/h and thus {hours}·{speed} = {way} km; with the "
            f"first {stop} km that makes {stop} + {way} = {way + stop} km for the whole trip.",
        },
        {
            "off-by-one": edit(expert, f"= {way} km.", f"= {way + 1} km."),
            "digit": edit(expert, f"for {hours} hours", f"for {hours + 2} hours"),
        },
        {"digit": edit(plain, f"gives {way + stop} km", f"gives {way + stop + 100} km")},
    )


def discriminant(rng: random.Random) -> Item:
    a, b, c = rng.randint(2, 5), rng.randint(7, 13), rng.randint(1, 3)
    d = b * b - 4 * a * c
    expert = (
        rf"For ${a}x^2 + {b}x + {c} = 0$ the discriminant is $D = b^2 - 4ac = {b}^2 - 4 \cdot {a} \cdot {c} = {d}$, "
        rf"which is positive, so there are two real roots."
    )
    plain = (
        rf"Two distinct real solutions exist because $D = {b}^2 - 4({a})({c}) = {d} > 0$ is the discriminant of the "
        rf"quadratic ${a}x^2 + {b}x + {c} = 0$."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "bare": f"For {a}x^2 + {b}x + {c} = 0 the discriminant is D = b^2 - 4ac = {b}^2 - 4*{a}*{c} = {d}, "
            "which is positive, so there are two real roots.",
            "commuted": rf"For ${c} + {b}x + {a}x^2 = 0$ we compute the discriminant "
            rf"$D = b^2 - 4ac = {b}^{{2}} - 4 \cdot {a} \cdot {c} = {d}$; being positive, it gives two real roots.",
        },
        {
            "sign": edit(expert, f"{a}x^2 + {b}x", f"{a}x^2 - {b}x"),
            "exponent": edit(expert, f"{a}x^2", f"{a}x^3"),
            "digit": edit(expert, f"= {d}$", f"= {d + 4}$"),
        },
        {"operator": edit(plain, rf"{b}^2 - 4(", rf"{b}^2 + 4(")},
    )


def elimination(rng: random.Random) -> Item:
    u, v = rng.randint(2, 9), rng.randint(10, 19)
    p, q = rng.randint(2, 6), rng.randint(3, 8)
    total, difference = p * u + q * v, p * u - q * v
    both = total + difference
    expert = (
        f"Adding the equations {p}u + {q}v = {total} and {p}u - {q}v = {difference} eliminates v: "
        f"{2 * p}u = {both}, hence u = {u}."
    )
    plain = (
        rf"We sum ${p}u + {q}v = {total}$ and ${p}u - {q}v = {difference}$, so that $v$ cancels and ${2 * p}u = {both}$ "
        rf"remains, that is $u = {u}$."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "latex": rf"Adding the equations \({p}u + {q}v = {total}\) and \({p}u - {q}v = {difference}\) eliminates \(v\): "
            rf"\({2 * p}u = {both}\), hence \(u = {u}\).",
            "flipped": f"Adding the equations {total} = {p}u + {q}v and {difference} = {p}u - {q}v eliminates v: "
            f"{both} = {2 * p}u, hence {u} = u.",
        },
        {
            "variable": edit(expert, f"hence u = {u}", f"hence v = {u}"),
            "sign": edit(expert, f"hence u = {u}", f"hence u = -{u}"),
            "digit": edit(expert, f"{2 * p}u = {both}", f"{2 * p}u = {both + 6}"),
        },
        {"off-by-one": edit(plain, f"$u = {u}$", f"$u = {u - 1}$")},
    )


def powers(rng: random.Random) -> Item:
    base, m, n = rng.choice([3, 5, 7]), rng.randint(4, 9), rng.randint(10, 15)
    expert = rf"By the product rule for powers, ${base}^{{{m}}} \cdot {base}^{{{n}}} = {base}^{{{m} + {n}}} = {base}^{{{m + n}}}$."
    plain = (
        f"Since the bases agree, the exponents are added: {base}^{m} * {base}^{n} = {base}^({m}+{n}) = {base}^{m + n}."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "bare": f"By the product rule for powers, {base}^{m} · {base}^{n} = {base}^({m} + {n}) = {base}^{m + n}.",
            "commuted": rf"The product rule for powers gives ${base}^{{{n}}} \times {base}^{{{m}}} = {base}^{{{n}+{m}}} = {base}^{{{m + n}}}$.",
        },
        {
            "exponent": edit(expert, f"{{{m + n}}}", f"{{{m + n + 1}}}"),
            "operator": edit(expert, f"{{{m} + {n}}}", f"{{{m} - {n}}}"),
        },
        {"digit": edit(plain, f"= {base}^{m + n}.", f"= {base}^{m * n}.")},
    )


def circle(rng: random.Random) -> Item:
    r = rng.randint(3, 19)
    expert = (
        rf"The fountain has diameter {2 * r}, so its radius is $r = \frac{{{2 * r}}}{{2}} = {r}$ and its area is "
        rf"$\pi r^2 = {r * r}\pi$."
    )
    plain = rf"Half of the diameter {2 * r} is the radius, r = {2 * r}/2 = {r}; hence the disc has area πr² = {r * r}π."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "dfrac": rf"The fountain has diameter ${2 * r}$, so its radius is $r=\dfrac{{{2 * r}}}{{2}}={r}$ and its area is "
            rf"$\pi r^{{2}}={r * r}\,\pi$.",
            "reorder": rf"The area of the fountain is $\pi r^2 = {r * r}\pi$, since with diameter {2 * r} its radius is "
            rf"$r = {2 * r}/2 = {r}$.",
        },
        {
            "exponent": edit(expert, "r^2", "r^3"),
            "digit": edit(expert, rf"{r * r}\pi", rf"{r * r + 1}\pi"),
        },
        {"digit": edit(plain, f"{r * r}π", f"{2 * r + 100}π")},
    )


def ladder(rng: random.Random) -> Item:
    k = rng.randint(2, 9)
    x, y, z = rng.choice([(3, 4, 5), (5, 12, 13), (8, 15, 17)])
    x, y, z = k * x, k * y, k * z
    expert = (
        rf"By the Pythagorean theorem the ladder's length $L$ satisfies $L^2 = {x}^2 + {y}^2 = {x * x} + {y * y} = {z * z}$, "
        rf"so $L = \sqrt{{{z * z}}} = {z}$."
    )
    plain = (
        f"The ladder is the hypotenuse of a right triangle with legs {x} and {y}: L² = {x}² + {y}² = {z * z}, "
        f"which gives a length of L = √{z * z} = {z}."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "bare": f"By the Pythagorean theorem the ladder's length L satisfies L^2 = {x}^2 + {y}^2 = {x * x} + {y * y} = {z * z}, "
            f"so L = sqrt({z * z}) = {z}.",
            "commuted": rf"Pythagoras tells us that the length $L$ of the ladder has "
            rf"$L^2 = {y}^2 + {x}^2 = {y * y} + {x * x} = {z * z}$ and therefore $L = \sqrt{{{z * z}}} = {z}$.",
        },
        {
            "operator": edit(expert, f"{x}^2 + {y}^2", f"{x}^2 - {y}^2"),
            "off-by-one": edit(expert, f"}} = {z}$", f"}} = {z - 1}$"),
            "exponent": edit(expert, "$L^2", "$L^3"),
        },
        {"digit": edit(plain, f"L² = {x}² + {y}² = {z * z},", f"L² = {x}² + {y}² = {z * z + 30},")},
    )


def trapezoid(rng: random.Random) -> Item:
    s, t, h = rng.randint(4, 12), rng.randint(14, 22), 2 * rng.randint(12, 19)
    area = (s + t) * h // 2
    expert = (
        rf"The area of the trapezoid with parallel sides ${s}$ and ${t}$ and height ${h}$ is "
        rf"\[ A = \frac{{1}}{{2}}({s} + {t}) \cdot {h} = {area}. \]"
    )
    plain = f"With bases {s} and {t} and a height of {h}, the trapezoid's area comes to A = 1/2 * ({s} + {t}) * {h} = {area}."
    return Item(
        expert,
        {
            "paraphrase": plain,
            "fraction": rf"The area of the trapezoid with parallel sides ${s}$ and ${t}$ and height ${h}$ is "
            rf"$A = \frac{{({s} + {t}) \cdot {h}}}{{2}} = {area}$.",
            "decimal": rf"Height ${h}$, parallel sides ${t}$ and ${s}$: the area of this trapezoid is "
            rf"$A = 0.5 \cdot ({t} + {s}) \cdot {h} = {area}$.",
        },
        {
            "operator": edit(expert, rf"({s} + {t}) \cdot", rf"({s} - {t}) \cdot"),
            "digit": edit(expert, f"{{2}}({s}", f"{{3}}({s}"),
            "off-by-one": edit(expert, f"= {area}.", f"= {area + 1}."),
        },
        {"variable": edit(plain, "A = 1/2", "h = 1/2")},
    )


def committee(rng: random.Random) -> Item:
    n, k = rng.randint(8, 13), rng.randint(3, 4)
    ways = comb(n, k)
    expert = (
        rf"The order of the members does not matter, so the committee can be chosen in "
        rf"$\binom{{{n}}}{{{k}}} = \frac{{{n}!}}{{{k}! \cdot {n - k}!}} = {ways}$ ways."
    )
    plain = (
        rf"Choosing {k} members out of {n} without regard to order is possible in "
        rf"\binom{{{n}}}{{{k}}} = {n}!/({k}!*{n - k}!) = {ways} different ways."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "dbinom": rf"The order of the members does not matter, so the committee can be chosen in "
            rf"$\dbinom{{{n}}}{{{k}}} = \dfrac{{{n}!}}{{{k}!\,{n - k}!}} = {ways}$ ways.",
            "reorder": rf"There are $\binom{{{n}}}{{{k}}} = \frac{{{n}!}}{{{n - k}! \cdot {k}!}} = {ways}$ ways to choose the "
            rf"committee, as the order of its members does not matter.",
        },
        {
            "digit": edit(expert, rf"\binom{{{n}}}", rf"\binom{{{n + 1}}}"),
            "off-by-one": edit(expert, f"= {ways}$", f"= {ways - 1}$"),
            "operator": edit(expert, rf"! \cdot {n - k}!", rf"! + {n - k}!"),
        },
        {"digit": edit(plain, f"= {ways} different", f"= {ways + 20} different")},
    )


def shelf(rng: random.Random) -> Item:
    n = rng.randint(4, 7)
    block = factorial(n) * 2
    expert = (
        f"Treat the two dictionaries as one block: the {n} objects can be ordered in {n}! = {factorial(n)} ways, and the "
        f"block itself in 2 ways, which makes {factorial(n)} × 2 = {block} arrangements."
    )
    plain = (
        rf"Gluing both dictionaries together leaves ${n}$ objects with ${n}! = {factorial(n)}$ orders; each has $2$ inner "
        rf"orders, so we count ${factorial(n)} \cdot 2 = {block}$ arrangements."
    )
    return Item(
        expert,
        {
            "paraphrase": plain,
            "latex": rf"Treat the two dictionaries as one block: the ${n}$ objects can be ordered in ${n}! = {factorial(n)}$ ways, "
            rf"and the block itself in $2$ ways, which makes ${factorial(n)} \times 2 = {block}$ arrangements.",
            "commuted": f"We make the two dictionaries one block. It can be ordered in 2 ways inside, the {n} objects in "
            f"{n}! = {factorial(n)} ways; altogether 2 × {factorial(n)} = {block} arrangements.",
        },
        {
            "operator": edit(expert, f"{factorial(n)} × 2", f"{factorial(n)} + 2"),
            "digit": edit(expert, f"the {n} objects", f"the {n + 1} objects"),
        },
        {"off-by-one": edit(plain, f"= {block}$", f"= {block + 1}$")},
    )


TEMPLATES: tuple[Template, ...] = (
    discount,
    journey,
    discriminant,
    elimination,
    powers,
    circle,
    ladder,
    trapezoid,
    committee,
    shelf,
)
