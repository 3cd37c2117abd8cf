"""Text as markup, and one line chart as inline SVG: what the HTML page is put together from.

Everything that is no markup already is escaped when it becomes a child or an attribute of a tag, in one place, so that
nothing a model wrote can become part of the page. Leaves out style: colours and sizes are in assets/page.css.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from superrl.report import number, percent

POINTS = 240
"""A curve of more points is drawn through the means of so many equal runs of them."""
TEXT = 2500
"""The most characters of one text that a page shows."""
WIDTH, HEIGHT = 340, 170
LEFT, RIGHT, TOP, BOTTOM = 60, 8, 14, 22
"""The drawing, and the margins of its plot, in SVG units."""

Point = tuple[float, float | None]
"""A step, and a value or None where nothing was computed."""


class Markup(str):
    """A string that is markup already."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Any text as markup that shows it: what cannot be seen (NUL, escapes, half a surrogate pair, text direction) is
    spelt out.

    >>> escape('<b>"a" & b\\0')
    '&lt;b&gt;&quot;a&quot; &amp; b\\\\x00'
    """
    if isinstance(text, Markup):
        return text
    return Markup(html.escape("".join(c if _visible(c) else f"\\x{ord(c):02x}" for c in str(text)), quote=True))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. Children and attribute values are escaped unless they are Markup; None is left out, True stands bare.
    `class_` and `data_show` are the attributes class and data-show.

    >>> tag("p", "a < b", class_="x", hidden=True, id=None)
    '<p class="x" hidden>a &lt; b</p>'
    """
    listed = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{listed}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Parts one after the other, escaped unless they are Markup; None is left out."""
    return Markup("".join(escape(part) for part in parts if part is not None))


def shortened(text: str) -> str:
    """A text's beginning and end, where it is longer than a page can take."""
    if len(text) <= TEXT:
        return text
    return f"{text[: TEXT - 500]}\n[... {len(text) - TEXT:,} characters ...]\n{text[-500:]}"


def _visible(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


@dataclass(frozen=True, slots=True)
class Series:
    """A curve: its name, its points by step, and for evaluations the 95 % interval of every point."""

    name: str
    points: Sequence[Point]
    intervals: Sequence[tuple[float, float] | None] = ()

    @property
    def known(self) -> list[float]:
        """The values that were computed."""
        return [value for _, value in self.points if value is not None]


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most `most` points: the means of equal runs of steps and of what was computed in them."""
    n = min(most, len(points))
    found: list[Point] = []
    for i in range(n):
        part = points[i * len(points) // n : (i + 1) * len(points) // n]
        values = [value for _, value in part if value is not None]
        found.append((sum(step for step, _ in part) / len(part), sum(values) / len(values) if values else None))
    return found


@dataclass(frozen=True, slots=True)
class Frame:
    """From steps and values to the drawing."""

    steps: tuple[float, float]
    values: tuple[float, float]

    def x(self, step: float) -> float:
        """Where a step stands."""
        return LEFT + (WIDTH - LEFT - RIGHT) * _part(step, self.steps)

    def y(self, value: float) -> float:
        """Where a value stands; the axis points downwards."""
        return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - _part(value, self.values))


def _part(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return (value - low) / (high - low) if high > low else 0.5


def frame(series: Sequence[Series], rate: bool) -> Frame | None:
    """The frame all series fit in: rates from 0 to 1, the rest from 0 (or below) to the greatest; None for nothing."""
    values = [value for one in series for value in one.known]
    if not values:
        return None
    steps = [step for one in series for step, _ in one.points]
    low, high = (0.0, 1.0) if rate else (min(0.0, *values), max(0.0, *values))
    if -low < 1e-3 * high:  # rounding below zero is no axis of its own
        low = 0.0
    return Frame((min(steps), max(steps)), (low, high))


def merged(series: Sequence[Series]) -> list[Series]:
    """The series that have values; of equal ones the first, under all their names."""
    found: list[Series] = []
    for one in series:
        same = next((i for i, other in enumerate(found) if list(other.points) == list(one.points)), None)
        if same is not None:
            found[same] = replace(found[same], name=f"{found[same].name} = {one.name}")
        elif one.known:
            found.append(one)
    return found


def chart(
    title: str, series: Sequence[Series], *, rate: bool, stages: Sequence[tuple[str, float]] = (), plain: bool = False
) -> Markup:
    """A figure of some curves over the steps; nothing where there is no value. `stages`: name and last step of each.

    A `rate` is drawn from 0 to 1, and its figures are percentages unless `plain`.
    """
    series = merged(series)
    box = frame(series, rate)
    if box is None:
        return Markup("")
    form = percent if rate and not plain else number
    drawing = tag(
        "svg", _axes(box, form(box.values[0]), form(box.values[1])), _boundaries(box, stages),
        *(_curve(one, box, index, form) for index, one in enumerate(series)),
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title,
    )  # fmt: skip
    keys = [
        tag("span", tag("i", class_=f"s{i}"), f"{one.name} {form(one.known[0])} → {form(one.known[-1])}", class_="key")
        for i, one in enumerate(series)
    ]
    return tag("figure", tag("h3", title), drawing, tag("figcaption", *keys))


def _axes(box: Frame, low: str, high: str) -> Markup:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = round(TOP + (HEIGHT - TOP - BOTTOM) * share, 1)
        parts.append(tag("path", d=f"M{LEFT} {y}H{WIDTH - RIGHT}", class_="grid"))
    base = HEIGHT - BOTTOM
    first, last = (f"{step:g}" for step in box.steps)
    return join([
        *parts,
        tag("text", high, x=LEFT - 5, y=TOP + 4, text_anchor="end"),
        tag("text", low, x=LEFT - 5, y=base + 3, text_anchor="end"),
        tag("text", f"step {first}", x=LEFT, y=base + 15),
        tag("text", last, x=WIDTH - RIGHT, y=base + 15, text_anchor="end") if last != first else None,
    ])  # fmt: skip


def _boundaries(box: Frame, stages: Sequence[tuple[str, float]]) -> Markup:
    """A dashed line where a stage ends and the next begins, and every stage's name where it begins."""
    parts, begins = [], box.steps[0]
    for name, last in stages if len(stages) > 1 else ():
        parts.append(tag("text", name, x=round(box.x(begins) + 3, 1), y=TOP - 4))
        if last < box.steps[1]:
            parts.append(tag("path", d=f"M{box.x(last):.1f} {TOP}V{HEIGHT - BOTTOM}", class_="stage"))
        begins = last
    return join(parts)


def _curve(one: Series, box: Frame, index: int, form: Callable[[float | None], str]) -> Markup:
    """A line broken where nothing was computed, dots where points are few or stand alone, and their intervals."""
    points = thinned(one.points)
    path, dots = "", []
    few = len(points) <= 30
    for i, (step, value) in enumerate(points):
        if value is None:
            continue
        x, y = box.x(step), box.y(value)
        linked = i > 0 and points[i - 1][1] is not None
        path += f"{'L' if linked else 'M'}{x:.1f} {y:.1f}"
        if few or not (linked or (i + 1 < len(points) and points[i + 1][1] is not None)):
            label = tag("title", f"{one.name}, step {step:g}: {form(value)}")
            dots.append(tag("circle", label, cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.5, class_=f"s{index}"))
    lines = [
        tag("path", d=f"M{box.x(step):.1f} {box.y(ends[0]):.1f}V{box.y(ends[1]):.1f}", class_=f"interval s{index}")
        for (step, _), ends in zip(one.points, one.intervals, strict=False)
        if ends is not None
    ]
    return join([*lines, tag("path", d=path, class_=f"line s{index}"), *dots])
