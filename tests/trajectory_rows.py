"""A row of every kind of file with written solutions, and what may go wrong in one."""

import json

from hypothesis import strategies as st

TEXT = "Well.\n1. **Add** 2+2\n2. **Say** \\boxed{4}"
S1K = {
    "question": "2+2?", "solution": "So it is $\\boxed{4}$.", "cot_type": "math", "source_type": "me", "metadata": "{}",
    "gemini_thinking_trajectory": "g", "gemini_attempt": "g", "deepseek_thinking_trajectory": "Hm.",
    "deepseek_attempt": TEXT, "gemini_grade": "No", "gemini_grade_reason": "", "deepseek_grade": "Yes",
    "deepseek_grade_reason": "right",
}  # fmt: skip
GSM8K = {"question": "2+2*3?", "answer": "It is 2*3=<<2*3=6>>6 first.\nThen 2+6=<<2+6=8>>8.\n#### 8"}
KNIGHTS = {
    "quiz": "Who is who?", "names": ["Amy", "Bo"], "solution": [True, False], "solution_text": "(1) ...",
    "cot_head": "Let's see.", "steps": ["Assume Amy is a knight.", "Bo is a knave."], "cot_foot": "It works.", "ppl": 2,
}  # fmt: skip
CHAMP = {"id": "P_1", "problem": "n?", "answer": "7", "steps": ["a = 3.", "b =\n4."], "category": "Sums"}
GYM = {
    "question": "q?",
    "answer": "4",
    "response": TEXT,
    "task": "sums",
    "model": "m",
    "numbered_steps": 2,
    "titled": 2,
}
PLANNING = {
    "domain": "blocks_3", "id": 7, "query": "Stack.", "ground_truth_plan": "(a)\n(b)", "think": "Hm.", "attempt": TEXT,
    "plan": "(a)", "correct": True,
}  # fmt: skip
MATH = {"problem": "2+2?", "solution": "We add. It is $\\boxed{4}$.", "level": "1"}
CHAT = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": TEXT}]}
ROW = {"id": "a", "prompt": "2+2?", "answer": "4", "demonstrations": [TEXT]}
ALL = {
    "s1k": S1K, "gsm8k": GSM8K, "knights-and-knaves": KNIGHTS, "champ": CHAMP, "reasoning-gym": GYM,
    "planning": PLANNING, "math": MATH, "messages": CHAT, "rows": ROW,
}  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=4) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
COLUMNS = sorted(
    {column for row in ALL.values() for column in row} | {"completion", "demonstration", "is_correct", "verdict"}
)
GOOD = st.sampled_from(list(ALL.values()))
VALUES = st.builds(
    lambda good, bad, gone: {key: value for key, value in (good | bad).items() if key not in gone},
    GOOD,
    st.dictionaries(st.sampled_from(COLUMNS), JSON, max_size=3),
    st.sets(st.sampled_from(COLUMNS), max_size=3),
)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
