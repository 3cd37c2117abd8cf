"""`superrl page RUN`: a whole run as one static HTML page that needs no server and no network.

Headline numbers, curves, the switch raster, and the groups of rollouts.jsonl with their demonstration beside them; of a
run on an expert's steps also a heat map of their rewards, and proposed against expert actions (`steppage.py`).
Style, script and drawings are inline; a policy in the head lets the browser load nothing and run our own script alone.
All text goes through `svg.escape`. Reads the run folder's files and nothing else, so it works while a run is going on.
Leaves out what is too much for a page: it says how many problems and groups it does not show.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from superrl import steppage, stepview
from superrl.errors import UserError
from superrl.raster import KINDS, TAUGHT, Visit, is_judged, raster, recovery, succeeded, told
from superrl.report import duration, interval, number, percent, read_rows
from superrl.report import is_judged as has_accuracy
from superrl.show import DECISIONS, check_run, demonstration_text, has_switch, prompt_text, read_summary, state
from superrl.svg import Markup, Series, chart, escape, join, shortened, tag
from superrl.why import alike

Row = Mapping[str, Any]
Tile = tuple[str, str, str | None]
"""A headline number: what it is, its value, and a line below."""

ASSETS = Path(__file__).parent / "assets"
SWITCH = "the switch"
"""A chart that stands only where something was solved, or fell back."""
CURVES = (
    ("reward", False, (("mean reward", "reward/mean"), ("correct", "reward/correct"))),
    (
        SWITCH,
        True,
        (("groups with a correct rollout", "switch/solved_rate"), ("groups that fell back", "switch/fallback_rate")),
    ),
    ("loss", False, (("policy gradient", "loss/pg"), ("demonstrations", "loss/sft"))),
    ("entropy, nats a token", False, (("entropy", "policy/entropy"),)),
    ("KL of sampler and learner, a token", False, (("k3 estimate", "policy/kl"),)),
    ("gradient norm before clipping", False, (("norm", "grad_norm"),)),
    (
        "share of the step after Adam's scaling",
        False,
        (("policy gradient", "streams/share/pg"), ("demonstrations", "streams/share/sft")),
    ),
    (
        "cosine of the streams' gradients",
        False,
        (("gradients", "streams/cosine"), ("updates", "streams/update_cosine")),
    ),
    ("length in tokens", False, (("completions", "length/completion"), ("demonstrations", "length/demonstration"))),
    ("cut off at max_new_tokens", True, (("completions", "length/truncated_rate"),)),
)
"""Title, whether it is a rate (drawn from 0 to 1), and its curves: name and metric key."""
CELLS = 12_000
GROUPS = 200
"""The most cells and groups that a page shows."""
CELL = 11
"""Width of a cell of the raster, in pixels."""


def write(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run, to RUN/report.html unless told otherwise, and return where it is."""
    path = out or run / "report.html"
    text = page(run)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another file with --out") from None
    return path


def page(run: Path) -> str:
    """The page of a run folder. UserError if it is none."""
    check_run(run)
    metrics, evaluations = stepview.unwrapped(read_rows(run / "metrics.jsonl")), read_rows(run / "evaluations.jsonl")
    held_out = steppage.held_out(evaluations)
    seen, rollouts = read_rows(run / "visits.jsonl"), read_rows(run / "rollouts.jsonl")
    steps, visits = stepview.rolled(seen), beside_steps(raster(seen))
    recipe = run / "config.yaml"
    source = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else ""
    summary, drawn = read_summary(run / "summary.json"), tag("div", *curves(metrics, evaluations), class_="charts")
    recipe_text = tag("details", tag("summary", "config.yaml"), tag("div", tag("pre", source), class_="inside"))
    body = join([
        heading(run, source, state(summary, metrics, read_rows(run / "timing.jsonl")).plain),
        tiles(summary, metrics, evaluations),
        section("Curves", drawn) if metrics or evaluations else None,
        section("Reward by trajectory and step", *steppage.heat_map(steps)) if steps else None,
        section("Steps held out", *held_out) if held_out else None,
        section("The switch, problem by problem", *raster_parts(visits)) if visits else None,
        section("Groups", *group_parts(rollouts)) if rollouts else None,
        section("Recipe", recipe_text) if source else None,
    ])  # fmt: skip
    return document(f"superrl: {run.resolve().name}", body)


def document(title: str, body: Markup) -> str:
    """A whole page around a body. The browser is told to load nothing and to run our script and no other."""
    css, script = (Markup((ASSETS / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = join([
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", css),
    ])  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n{tag("script", script)}</body></html>\n'
    )


def section(title: str, *parts: object) -> Markup:
    """A heading and what stands under it."""
    return join(["\n", tag("h2", title), *parts])


def heading(run: Path, source: str, progress: str) -> Markup:
    """The run's name, what was trained by which methods from which seed, and how far it is."""
    recipe = loaded(source)
    stages = recipe.get("stages") or []
    methods = ", then ".join(str((stage.get("method") or {}).get("name")) for stage in stages)
    model = (recipe.get("model") or {}).get("name")
    facts = [f"method {methods}" if methods else None, f"model {model}" if model else None]
    facts.append(f"seed {recipe['seed']}" if "seed" in recipe else None)
    lines = [" · ".join(fact for fact in facts if fact), *progress.split("\n")]
    return join([tag("h1", run.resolve().name), *(tag("p", line, class_="soft") for line in lines if line)])


def loaded(source: str) -> dict[str, Any]:
    """config.yaml as it stands, {} if it is damaged: a page is also made of runs by other versions."""
    try:
        recipe = yaml.safe_load(source)
    except yaml.YAMLError:
        return {}
    return recipe if isinstance(recipe, dict) else {}


def tiles(summary: Row, metrics: Sequence[Row], evaluations: Sequence[Row]) -> Markup:
    """The headline numbers."""
    found = [*accuracy_tiles(evaluations, "test"), *accuracy_tiles(evaluations, "validation")]
    if metrics:
        found.append(("steps", str(metrics[-1]["step"]), None))
    if "wall_seconds" in summary:
        found.append(("wall time", duration(summary["wall_seconds"]), None))
    if generated := sum(row.get("tokens/generated") or 0 for row in metrics):
        found.append(("tokens generated", f"{generated:,.0f}", None))
    if (fallbacks := sum(row.get("switch/fallbacks") or 0 for row in metrics)) or summary:
        found.append(("fallbacks", f"{fallbacks:,.0f}", None))
    found += steppage.tiles(metrics)
    shown = [tag("div", tag("dt", name), tag("dd", value, tag("small", more) if more else None),
                 class_="broad" if more else None) for name, value, more in found]  # fmt: skip
    return tag("dl", *shown, class_="tiles")


def accuracy_tiles(evaluations: Sequence[Row], split: str) -> list[Tile]:
    """Accuracy at the start and at the end of every set of a split, with the last interval; else the mean reward."""
    found: list[Tile] = []
    for data, rows in by_data(evaluations, split).items():
        first, last = (
            percent(row["accuracy"]) if has_accuracy(row) else number(row["reward"]) for row in (rows[0], rows[-1])
        )
        change = f"{first} → {last}" if len(rows) > 1 else first
        what = "accuracy" if has_accuracy(rows[-1]) else "mean reward"
        found.append(
            (f"{split} {what}", f"{change} {interval(rows[-1].get('ci95'))}", f"n {rows[-1].get('n')}, {data}")
        )
    return found


def by_data(evaluations: Sequence[Row], split: str) -> dict[str, list[Row]]:
    """The evaluations of a split by the name of their data, in the order of the steps."""
    sets: dict[str, list[Row]] = {}
    for row in evaluations:
        if row.get("split") == split:
            sets.setdefault(str(row.get("data")), []).append(row)
    return sets


def curves(metrics: Sequence[Row], evaluations: Sequence[Row]) -> list[Markup]:
    """The charts that have something to show."""
    ends = stage_ends(metrics)
    drawn = []
    for key, judged in (("accuracy", True), ("reward", False)):
        evaluated = [
            Series(f"{split} {data}" if len(sets) > 1 else split, [(row["step"], row[key]) for row in rows],
                   [row.get("ci95") for row in rows])
            for split in ("validation", "test")
            for sets in (by_data([row for row in evaluations if has_accuracy(row) == judged], split),)
            for data, rows in sets.items()
        ]  # fmt: skip
        drawn.append(chart(f"{key} of the evaluations", evaluated, rate=judged, stages=ends))
    switched = has_switch(metrics)
    drawn += steppage.curves(metrics, ends)
    for title, rate, listed in CURVES:
        if title == SWITCH and not switched:
            continue
        series = [Series(name, [(row["step"], row.get(metric)) for row in metrics]) for name, metric in listed]
        drawn.append(chart(title, series, rate=rate, stages=ends))
    return drawn


def stage_ends(metrics: Sequence[Row]) -> list[tuple[str, float]]:
    """Every stage's name and last step."""
    ends: dict[str, float] = {}
    for row in metrics:
        ends[str(row.get("stage"))] = row["step"]
    return list(ends.items())


def beside_steps(problems: Mapping[str, list[Visit]]) -> dict[str, list[Visit]]:
    """The problems without steps of an expert that nobody judged: those have a heat map, and nothing to be solved."""
    return {name: some for name, some in problems.items() if stepview.place(name) is None or is_judged({name: some})}


def raster_parts(problems: Mapping[str, Sequence[Visit]]) -> list[Markup]:
    """The raster: problems with a demonstration and those without, what the colours mean, what it comes to."""
    if not is_judged(problems):
        return [tag("p", "The reward of this run does not say which rollouts are correct (reward.correct_at would), so "
                         "there is no telling which visits were solved.")]  # fmt: skip
    shown, cells = {}, 0
    for name, visits in sorted(problems.items(), key=lambda item: -len(item[1])):
        cells += len(visits)
        if cells <= CELLS:
            shown[name] = visits
    parts = [
        tag("p", "Every row is a problem, every cell one visit to it, from left to right. " + told(recovery(problems))),
        legend(problems),
    ]
    if hidden := len(problems) - len(shown):
        parts.append(tag("p", f"{hidden:,} problems with the fewest visits are not shown.", class_="soft"))
    for title, wanted in (("problems with a demonstration", True), ("problems without one", False)):
        some = {name: visits for name, visits in shown.items() if bool(visits[0].row["demonstrations"]) == wanted}
        if some:
            parts += [tag("h3", f"{title}: {len(some):,}"), strips(some)]
    return parts


def legend(problems: Mapping[str, Sequence[Visit]]) -> Markup:
    """What the colours mean, and how many visits have each."""
    visits = [visit for listed in problems.values() for visit in listed]
    counts = Counter(visit.kind for visit in visits)
    items = [
        tag("li", tag("i", class_=css(kind)), f"{kind} ({counts[kind]:,}): {meaning}")
        for kind, meaning in KINDS.items()
        if counts[kind]
    ]
    if marked := sum(visit.taught and visit.kind not in ("fallback", "imitated") for visit in visits):
        items.append(
            tag(
                "li", tag("i", class_="taught"), f"foot of another cell ({marked:,}): its demonstration was learnt from"
            )
        )
    return tag("ul", *items, class_="legend")


def strips(problems: Mapping[str, Sequence[Visit]]) -> Markup:
    """A row of cells for every problem, those that succeeded first on top."""

    def order(item: tuple[str, Sequence[Visit]]) -> tuple[int, list[str], str]:
        name, visits = item
        first = next((i for i, visit in enumerate(visits) if succeeded(visit)), len(visits))
        return first, [visit.kind for visit in visits], name

    widest = max(map(len, problems.values()))
    rows = [strip(name, visits) for name, visits in sorted(problems.items(), key=order)]
    return tag("div", *rows, class_="raster", style=f"column-width:{widest * CELL}px")


def strip(name: str, visits: Sequence[Visit]) -> Markup:
    """One problem's visits."""
    cells = []
    for i, visit in enumerate(visits):
        row = visit.row
        outcome = f"{row['correct']} of {row['n']} correct" if row["correct"] is not None else "not judged"
        said = f"{name}, step {row['step']}: {outcome}; {visit.kind}; learnt from: {DECISIONS.get(row['decision'])}"
        cells.append(tag("rect", tag("title", said), x=i, width=0.88, height=1, class_=css(visit.kind)))
        if visit.taught and visit.kind not in ("fallback", "imitated"):
            cells.append(tag("rect", x=i, y=0.62, width=0.88, height=0.38, class_="taught"))
    n = len(visits)
    return tag("svg", *cells, viewBox=f"0 0 {n} 1", preserveAspectRatio="none", width=n * CELL)


def css(kind: str) -> str:
    """A kind of visit as a class of the style sheet."""
    return kind.replace(" ", "-")


def group_parts(rollouts: Sequence[Row]) -> list[Markup]:
    """The filter, and a panel for every group shown."""
    shown = spread(rollouts)
    counts = Counter(str(row["decision"]) for row in shown)
    buttons = [tag("button", f"all {len(shown)}", type="button", data_show="all", aria_pressed="true")]
    buttons += [
        tag(
            "button", f"{DECISIONS.get(kind, kind)} {counts[kind]}", type="button", data_show=kind, aria_pressed="false"
        )
        for kind in sorted(
            counts, key=lambda kind: list(DECISIONS).index(kind) if kind in DECISIONS else len(DECISIONS)
        )
    ]
    said = f"{len(shown):,} of the {len(rollouts):,} groups in rollouts.jsonl, from evenly spread steps."
    return [
        tag(
            "p", said if len(shown) < len(rollouts) else f"The {len(shown):,} groups in rollouts.jsonl.", class_="soft"
        ),
        tag("div", *buttons, class_="buttons"),
        *map(panel, shown),
    ]


def spread(rollouts: Sequence[Row], most: int = GROUPS) -> list[Row]:
    """All groups of evenly spread steps, the first and the last among them; at most about `most` groups."""
    steps = list(dict.fromkeys(row["step"] for row in rollouts))
    wanted = min(len(steps), max(2, most * len(steps) // max(len(rollouts), 1)))
    chosen = {steps[i * (len(steps) - 1) // max(wanted - 1, 1)] for i in range(wanted)}
    return [row for row in rollouts if row["step"] in chosen]


def panel(row: Row) -> Markup:
    """One group: the prompt, its completions, and the demonstration beside them."""
    kind = str(row["decision"])
    badge = tag("span", DECISIONS.get(kind, kind), class_=f"badge {kind if kind in DECISIONS else 'none'}")
    head = tag(
        "summary",
        tag("b", f"step {row['step']}"),
        badge,
        tag("span", f"{row['meta']['trajectory']}, {stepview.headline(row)}") if stepview.is_step(row) else None,
        tag("span", row["why"] if stepview.is_step(row) else f"{row['problem_id']}: {row['why']}", class_="soft"),
    )
    if stepview.is_step(row):
        parts = [*steppage.context(row), *steppage.proposals(row)]
    else:
        parts = [tag("h3", "prompt"), tag("pre", shortened(prompt_text(row["prompt"]))), answers(row)]
    inside = tag("div", *parts, class_="inside")
    return join(["\n", tag("details", head, inside, data_decision=kind)])


def answers(row: Row) -> Markup:
    """The completions of an ordinary group, and the demonstration beside them."""
    drawn = [completion(same) for same in alike(row["completions"])]
    rolled = tag("div", tag("h3", "rollouts"), tag("div", *drawn, class_="rollouts")) if drawn else None
    expert = row["demonstration"]
    beside = None
    if expert is not None:
        beside = tag("div", tag("h3", "demonstration"), tag("pre", shortened(demonstration_text(expert))))
    elif row["decision"] in TAUGHT:
        beside = tag(
            "div", tag("h3", "demonstrations"), tag("p", "several; their texts are in the data", class_="soft")
        )
    return tag("div", rolled, beside, class_="beside" if beside else None)


def completion(same: Sequence[Row]) -> Markup:
    """Completions that are alike: their score, their advantage, how many there are, and the text."""
    one = same[0]
    score = one["score"] or {}
    correct, value = score.get("correct"), score.get("value")
    mark, style = ("?", "soft") if correct is None else ("✓", "right") if correct else ("✗", "wrong")
    facts = [f"reward {number(value)}"]
    facts += [f"advantage {one['advantage']:+.2f}"] if one["advantage"] is not None else []
    facts += [f"×{len(same)}"] if len(same) > 1 else []
    facts += ["cut off"] if one["stop"] == "length" else []
    parts = {name: part for name, part in (score.get("parts") or {}).items() if part is not None}
    facts += [f"{name} {number(part)}" for name, part in parts.items()]
    line = tag("div", tag("b", mark, class_=style), " · ".join(facts), class_="score")
    return tag("div", line, tag("pre", shortened(one["text"])))
