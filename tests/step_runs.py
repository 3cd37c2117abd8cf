"""Rows of a made-up run on an expert's steps, for the tests of what a person sees of one."""

from collections.abc import Sequence
from typing import Any

REASONS = ("no_think", "think_twice", "two_steps", "cut", "unclosed", "empty_action")


def visit(step: int, place: str, values: Sequence[float], **changes: Any) -> dict[str, Any]:
    """A row of visits.jsonl: the policy's own rollouts of one step of an expert."""
    row = {
        "step": step, "stage": "srl", "problem_id": place, "drawn": step, "n": len(values), "correct": None,
        "assisted": 0, "values": list(values), "advantages": None, "demonstrations": 1, "decision": "pg",
        "demonstration": None, "share": 0.5, "why": "",
    }  # fmt: skip
    return {**row, **changes}


def completion(text: str, value: float, reason: str | None = None, advantage: float | None = None) -> dict[str, Any]:
    """A completion as rollouts.jsonl has it, scored by `step_similarity`."""
    parts = {"format": float(reason is None), "exact": float(value == 1.0)}
    parts |= {} if reason else {"similarity": value}
    parts |= {f"format/{name}": float(name == reason) for name in REASONS}
    score = {"value": value, "correct": None, "parts": parts}
    return {"text": text, "stop": "length" if reason == "cut" else "eos", "score": score, "advantage": advantage}


def rollout(step: int, place: str, completions: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A row of rollouts.jsonl: step 2 of 5 of the trajectory that `place` names."""
    meta = {"trajectory": place, "step": 2, "steps": 5, "title": "Factor", "tool": "", "think": "prefilled"}
    row = {
        "step": step, "stage": "srl", "problem_id": f"{place}/step-2", "prompt": "the problem",
        "completions": list(completions), "decision": "pg", "demonstration": None, "why": "they deviate",
        "earlier": [], "opening": "<think>\n", "answer": "x = 2 or x = 3", "meta": meta,
    }  # fmt: skip
    return {**row, **changes}
