"""The reward: 1 if the last line is `#` and the answer."""

from __future__ import annotations


def final_line(prompts: list[str], completions: list[str], answer: list[str], **columns: object) -> list[float]:
    """One number a completion; columns of the data arrive by name."""
    return [
        float(text.strip().rpartition("\n")[2] == f"#{gold}") for text, gold in zip(completions, answer, strict=True)
    ]
