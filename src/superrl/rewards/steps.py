"""The reward `step_similarity`: how alike the policy's next action is to the expert's, -1 for a wrong format.

SRL (arXiv:2510.25992): the completion is a thought, which is never scored, and one action; the gate (`steps/gate.py`)
refuses everything else, each refusal counted by its reason. The expert's action is the problem's answer; the template,
the parser's format and the number of the step stand in its `meta`, where `superrl.data.instances` wrote them.

Small batches are compared here, larger ones in worker processes (`step_worker.py`), in chunks of pairs. Leaves out how
texts are compared (`superrl.similarity`), and what a similarity by another model asks (`remote.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field, model_validator

from superrl.errors import UserError, nearest
from superrl.records import Problem, Score, Trajectory
from superrl.rewards.base import BaseOptions, Fingerprint, Grader, digest
from superrl.rewards.workers import Pool
from superrl.similarity import KINDS, Measured, exact, measure
from superrl.steps.gate import REASONS, Verdict, judge
from superrl.steps.parse import FORMATS, find_header
from superrl.steps.think import OPENINGS, Think

WORKER = Path(__file__).with_name("step_worker.py")
REFUSED = -1.0
"""The reward of a wrong format."""

HERE, CHUNK = 0.2, 0.025
"""Seconds of estimated work: up to which a batch is compared in this process, and what a request to a worker holds."""

LIMIT = 600.0
"""Seconds for a request; no pair comes near it, and a worker that is lost for it costs time only."""

Remote = Literal["embedding", "judge"]
Kind = Literal["ratcliff", "indel", "maths", "tool_call", "exact", "format", Remote]
REMOTE = get_args(Remote)

Scorer = Callable[[Sequence[tuple[str, str, str]]], list[float]]
"""A similarity by another model: of (prompt, action, the expert's action) each."""


class StepOptions(BaseOptions):
    """`kind`: the similarity; `format` gives 1.0 to whatever passes the gate. `paper_compat`: difflib's `autojunk`, for
    ratcliff. `remote`: for `embedding` and `judge`, the model that is asked."""

    kind: Kind = "ratcliff"
    paper_compat: bool = False
    remote: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> StepOptions:
        if self.paper_compat and self.kind != "ratcliff":
            raise ValueError(f"paper_compat is about kind: ratcliff, not {self.kind}")
        if self.remote and self.kind not in REMOTE:
            raise ValueError(f"remote is for the kinds {' and '.join(REMOTE)}, not {self.kind}")
        return self


class Pair(NamedTuple):
    """What is compared; `agent`: tools and files are as well."""

    action: str
    expert: str
    agent: bool


class StepSimilarity(Grader):
    """Judges nothing unless `correct_at` is set."""

    name = "step_similarity"
    Options = StepOptions
    options: StepOptions

    def __init__(self, options: StepOptions, processes: int | None = None) -> None:
        super().__init__(options)
        self.gives_correct = options.correct_at is not None
        self._pool = Pool(WORKER, processes)
        self._scorer = remote_scorer(options.kind, options.remote)

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        """Texts alone: none counts as cut off."""
        return self._grade(problems, completions, [False] * len(completions))

    def score_rollouts(self, problems: Sequence[Problem], trajectories: Sequence[Trajectory]) -> list[Score]:
        """As `score`; a rollout that the length limit ended is refused."""
        texts, cut = [one.text for one in trajectories], [one.stop == "length" for one in trajectories]
        return [self.decide(score) for score in self._grade(problems, texts, cut)]

    def _grade(self, problems: Sequence[Problem], texts: Sequence[str], cut: Sequence[bool]) -> list[Score]:
        verdicts = [verdict(*one) for one in zip(problems, texts, cut, strict=True)]
        valid = [i for i, found in enumerate(verdicts) if found.reason is None]
        pairs = [self._pair(problems[i], verdicts[i].action) for i in valid]
        measured = self._measured(pairs)
        if self.options.kind == "format":
            measured = [one._replace(value=1.0) for one in measured]
        if self._scorer is not None and valid:
            triples = [(told(problems[i]), pair.action, pair.expert) for i, pair in zip(valid, pairs, strict=True)]
            values = self._scorer(triples)
            measured = [one._replace(value=value) for one, value in zip(measured, values, strict=True)]
        scores = [refused(found.reason) for found in verdicts]
        for i, pair, one in zip(valid, pairs, measured, strict=True):
            scores[i] = passed(self.options.kind, pair, one)
        return scores

    def _pair(self, problem: Problem, action: str) -> Pair:
        agent = self.options.kind == "tool_call" or bool(problem.meta.get("tool"))
        return Pair(well_formed(action), well_formed(expert_of(problem)), agent)

    def _measured(self, pairs: Sequence[Pair]) -> list[Measured]:
        """Every distinct pair is compared once, here or in worker processes: the numbers are the same."""
        kind = self.options.kind if self.options.kind in KINDS else "exact"  # the value is set later, tools are not
        distinct = list(dict.fromkeys(pairs))
        costs = [seconds(kind, len(pair.action), len(pair.expert)) for pair in distinct]
        found: list[Measured] = []
        if sum(costs) <= HERE:
            found = self._here(kind, distinct)
        else:
            chunks = chunked(distinct, costs)
            replies = self._pool.ask([self._request(kind, chunk) for chunk in chunks], LIMIT)
            for chunk, reply in zip(chunks, replies, strict=True):
                ok = reply.status == "ok"
                found += [Measured(*values) for values in reply.value] if ok else self._here(kind, chunk)
        known = dict(zip(distinct, found, strict=True))
        return [known[pair] for pair in pairs]

    def _here(self, kind: str, pairs: Sequence[Pair]) -> list[Measured]:
        autojunk = self.options.paper_compat
        return [measure(kind, action, expert, autojunk=autojunk, agent=agent) for action, expert, agent in pairs]

    def _request(self, kind: str, pairs: Sequence[Pair]) -> dict[str, Any]:
        return {"kind": kind, "autojunk": self.options.paper_compat, "pairs": pairs}

    @property
    def part_names(self) -> tuple[str, ...]:
        """`similarity` and `bounded` are of what passed the gate, `tool` and `file` of an agent's actions."""
        names = {
            "format": (),
            "ratcliff": ("similarity", "bounded"),
            "tool_call": ("similarity", "bounded", "tool", "file"),
        }
        return names.get(self.options.kind, ("similarity",))

    @property
    def fingerprint(self) -> Fingerprint | None:
        """None for a similarity by another model: what answers behind an address may change."""
        if self._scorer is not None:
            return None
        packages = {name: version(name) for name in ("cydifflib", "rapidfuzz")}
        return {**(super().fingerprint or {}), "packages": packages, "comparing": comparing_code()}

    def reads(self, problem: Problem) -> Any:
        meta = problem.meta
        return [problem.answer, *(meta.get(key) for key in ("think", "format", "step", "tool"))]

    def close(self) -> None:
        self._pool.close()


def verdict(problem: Problem, completion: str, cut: bool) -> Verdict:
    """What the gate says of a completion of this problem."""
    think = problem.meta.get("think", "none")
    if think not in get_args(Think):
        known = nearest(str(think), get_args(Think))
        raise UserError(f"reward 'step_similarity': problem {problem.id!r} has think: {think!r} in its row; {known}")
    expert, number, format = expert_of(problem), problem.meta.get("step"), problem.meta.get("format")
    following = None
    if isinstance(number, int) and format in FORMATS and is_one_step(expert, number, format):
        following = lambda action: not is_one_step(action, number, format)  # noqa: E731
    return judge(completion, think=think, cut=cut, following=following, expert=expert)


@lru_cache(maxsize=4096)
def is_one_step(action: str, number: int, format: str) -> bool:
    """Whether the text of step `number` does not hold the header of the next. An expert's that does (a whole solution
    for one action) leaves nothing to refuse."""
    return find_header(action, number + 1, format) is None


def expert_of(problem: Problem) -> str:
    """The expert's action; a problem without one is told apart when data are loaded."""
    return (problem.answer or "").strip()


def refused(reason: str | None) -> Score:
    """The score of a completion that the gate refused."""
    return Score(REFUSED, None, {"format": 0.0, "exact": 0.0, **reasons(reason)})


def passed(kind: Kind, pair: Pair, measured: Measured) -> Score:
    """The score of one action."""
    parts = {"format": 1.0, "exact": exact(pair.action, pair.expert)}
    if kind != "format":
        parts["similarity"] = measured.value
    if kind == "ratcliff" or kind == "tool_call":
        parts["bounded"] = float(measured.bounded)
    agent = {"tool": measured.tool, "file": measured.file}
    parts |= {name: value for name, value in agent.items() if value is not None}
    return Score(measured.value, None, parts | reasons(None))


def reasons(reason: str | None) -> dict[str, float]:
    """One part for every reason of the gate, 1.0 for the one that holds."""
    return {f"format/{name}": float(name == reason) for name in REASONS}


def well_formed(text: str) -> str:
    """The text with the halves of a surrogate pair joined, as they are once the text has been through JSON."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def seconds(kind: str, action: int, expert: int) -> float:
    """About what comparing texts of these lengths takes."""
    if kind == "ratcliff":
        return min(0.05, 2e-5 + 2.5e-9 * action * expert)
    return 2e-6 + (1e-6 if kind in ("maths", "tool_call") else 1e-8) * (action + expert) + 1e-11 * action * expert


def chunked(pairs: Sequence[Pair], costs: Sequence[float]) -> list[list[Pair]]:
    """The pairs, in order, in runs that each take about CHUNK seconds."""
    chunks: list[list[Pair]] = []
    filled = CHUNK
    for pair, cost in zip(pairs, costs, strict=True):
        if filled >= CHUNK:
            chunks.append([])
            filled = 0.0
        chunks[-1].append(pair)
        filled += cost
    return chunks


def remote_scorer(kind: Kind, options: Mapping[str, Any]) -> Scorer | None:
    """The similarity by another model, for the kinds that ask one."""
    if kind != "embedding" and kind != "judge":
        return None
    from superrl.rewards import remote

    return remote.scorer(kind, options)


def told(problem: Problem) -> str:
    """The task as another model is told it: the prompt, and the solution so far where that opens the answer."""
    return "\n".join(filter(None, [problem.prompt, problem.opening.removesuffix(OPENINGS["prefilled"])]))


@lru_cache(maxsize=1)
def comparing_code() -> str:
    """A digest of the source that compares and takes apart: beside `own_code` it says when a kept score is outdated."""
    package = Path(__file__).parents[1]
    files = [file for name in ("similarity", "steps") for file in sorted((package / name).glob("*.py"))]
    return digest([file.read_text(encoding="utf-8") for file in files])
