r"""compare.tex by its structure: what pdflatex would stumble over, which cells are bold, and what a name may hold."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_results_report import analysis_of, write_known

from superrl.comparison.latex import escape, latex

FIRST = Path(__file__).parents[2] / "docs/results/first/compare.json"
COMMANDS = {
    "begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule", "multicolumn", "quad", "pm",
    "mathbf", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar",
}  # fmt: skip


def rows_of(text):
    """The tabular's cells by row, after checking that TeX would read the file as we mean it."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert all(re.search(r"(?<!\\)%", line) is None for line in lines), "a comment would swallow the rest of a line"
    body = re.sub(r"\\[#$%&_{}\\,]", "", "\n".join(lines))
    assert set(re.findall(r"\\([a-z]+)", body)) <= COMMANDS and re.search(r"\\[^a-z]", body) is None
    assert body.count("{") == body.count("}") and body.count("$") % 2 == 0
    depth = [sum(1 if c == "{" else -1 if c == "}" else 0 for c in body[:i]) for i in range(len(body))]
    assert min(depth) == 0
    assert not re.search(r"[#_^~]", body), "these need an escape outside of mathematics, and we use none inside"
    assert re.findall(r"\\(begin|end)\{(\w+)\}", body) == [
        ("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table"),
    ]  # fmt: skip
    inside = text.split("\\toprule\n")[1].split("    \\bottomrule")[0]
    rows = [line.strip() for line in inside.splitlines() if line.strip() != "\\midrule"]
    assert all(row.endswith(r" \\") for row in rows)
    cells = [re.split(r"(?<!\\)&", row.removesuffix(r" \\")) for row in rows]
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
    assert all(len(row) == columns for row in cells if "multicolumn" not in row[0])
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}


def test_the_table_of_the_first_comparison_says_what_its_page_says():
    found = rows_of(latex(json.loads(FIRST.read_text())))
    assert found[""] == ["chain-a", "chain-b", "logic-a", "logic-b"] and found["start"][0] == "$1.0$"
    assert found["sft"][0] == r"$76.1 \pm 9.7$" and found["grpo"][0] == r"$12.5 \pm 14.7$"  # [0.0, 27.2] is cut at 0
    assert found[r"\quad grpo"][:2] == [r"$\mathbf{+73.4 \pm 59.5}$", r"$\mathbf{+87.1 \pm 12.8}$"]
    assert found[r"\quad yoked"][2] == r"$-2.3 \pm 14.6$"
    bold = sum("mathbf" in cell for cells in found.values() for cell in cells)
    assert bold == 8, "as many as are bold in docs/results/README.md"


def test_cells_without_a_number_and_names_that_tex_would_misread(tmp_path):
    write_known(tmp_path, settings=("s", "t"), name="100% of_it & more")
    analysis = analysis_of(tmp_path)
    known = rows_of(latex(analysis))
    half = 4.302653 * 0.1 / 3**0.5
    assert known["superrl"][0] == rf"$80.0 \pm {100 * half:.1f}$" and known["sft"][0].startswith("$80.0 ")
    assert known[r"\quad sft"] == [r"$+0.0 \pm 12.4$"] * 2 and "mathbf" in known[r"\quad grpo"][0]
    renamed = json.loads(json.dumps(analysis).replace('"grpo"', '"my_grpo{2}"'))
    renamed["settings"]["t"]["arms"].pop("my_grpo{2}")
    renamed["settings"]["t"]["differences"]["in distribution"].pop("my_grpo{2}")
    found = rows_of(latex(renamed))
    assert found[r"my\_grpo\{2\}"] == [known["grpo"][0], "--"] and found[r"\quad my\_grpo\{2\}"][1] == "--"
    assert r"\label{tab:100-of-it-more}" in latex(analysis)


def test_a_comparison_of_one_arm_or_of_none_that_finished_is_a_table_too(tmp_path):
    write_known(tmp_path, arms=("superrl",), baseline="superrl")
    alone = latex(analysis_of(tmp_path))
    assert list(rows_of(alone)) == ["", "start", "superrl"] and "minus" not in alone
    write_known(tmp_path / "more", arms=("grpo", "superrl"))
    for run in (tmp_path / "more/runs/s").glob("*/seed-*/summary.json"):
        run.unlink()
    empty = latex(analysis_of(tmp_path / "more"))
    assert rows_of(empty) == {"": ["s"], "start": ["--"]} and "Partial: 6 of 6 runs are missing." in empty


@given(st.text(max_size=20))
def test_an_escaped_text_has_no_character_that_tex_acts_on(text):
    bare = re.sub(r"\\(text[a-z]+\{\}|[#$%&_{}])", "", escape(text))
    assert not set(bare) & set("\\#$%&_{}~^<>|\n\r")


@pytest.mark.parametrize("text, wanted", [("a_b", r"a\_b"), ("50 %", r"50 \%"), ("a\n b", "a b"), ("x^2", None)])
def test_escapes_by_hand(text, wanted):
    assert escape(text) == (wanted or r"x\textasciicircum{}2")
