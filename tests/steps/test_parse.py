"""Solutions cut into steps and put together again; what is a header and what only looks like one."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superrl.records import Step
from superrl.steps.parse import FORMATS, Solution, find_header, of_text, parse, render


def cut(text, format="auto"):
    """(format, preamble, [(title, action)]) of a text that parses."""
    found = parse(text, format)
    assert isinstance(found, Solution), found
    assert render(found) == text
    return found.format, found.preamble, [(step.title, step.action.strip()) for step in found.steps]


def bodies(text, format="auto"):
    return [action for _, action in cut(text, format)[2]]


def test_titled_steps_by_hand():
    text = "We solve it.\n\n1. **Factor the sum**: x(x+1)\n   = 0\n\n2. **Solve.**\n\n   x = 0 or -1\n3. **Say** done\n"
    found = parse(text)
    assert found == Solution(
        "We solve it.\n\n",
        (
            Step("x(x+1)\n   = 0\n\n", lead="1. **Factor the sum**: ", title="Factor the sum"),
            Step("x = 0 or -1\n", lead="2. **Solve.**\n\n   ", title="Solve"),
            Step("done\n", lead="3. **Say** ", title="Say"),
        ),
        "titled",
    )
    assert render(found) == text


@pytest.mark.parametrize(
    ("text", "format", "titles", "actions"),
    [
        ("## Step 1: Look\na\n## Step 2: Leap\nb", "hash-step", ["Look", "Leap"], ["a", "b"]),
        ("### **Step 1: Look**\na\n### **Step 2 - Leap**\nb", "hash-step", ["Look", "Leap"], ["a", "b"]),
        ("#### Step 1\na\n#### Step 2\nb", "hash-step", ["", ""], ["a", "b"]),
        ("## 1. Look\na\n## 2. **Leap**\nb", "hash-step", ["Look", "Leap"], ["a", "b"]),
        ("Step 1. a\nStep 2. b", "step", ["", ""], ["a", "b"]),
        ("STEP 1: a\nstep 2: b", "step", ["", ""], ["a", "b"]),
        ("**Step 1:** a\n**Step 2:** b", "step", ["", ""], ["a", "b"]),
        ("**Step 1**: a\n**Step 2**: b", "step", ["", ""], ["a", "b"]),
        ("**Step 1: Look**\na\n\n**Step 2: Leap**\nb", "step", ["Look", "Leap"], ["a", "b"]),
        ("**1. Look**\na\n**2. Leap:** b", "titled", ["Look", "Leap"], ["a", "b"]),
        ("1) **Look** a\n2) **Leap** b", "titled", ["Look", "Leap"], ["a", "b"]),
        ("1. a\n2. b", "numbered", ["", ""], ["a", "b"]),
        ("1) a\n2) b", "numbered", ["", ""], ["a", "b"]),
        ("**1.** a\n**2.** b", "numbered", ["", ""], ["a", "b"]),
        ("1.\na\n2.\nb", "numbered", ["", ""], ["a", "b"]),
        ("   1. a\n  2. b", "numbered", ["", ""], ["a", "b"]),
        ("1. a\r\n2. b\r\n", "numbered", ["", ""], ["a", "b"]),
        ("We add. So x = 2.", "sentences", ["", ""], ["We add.", "So x = 2."]),
    ],
)
def test_every_form_of_header(text, format, titles, actions):
    assert cut(text) == (format, "", list(zip(titles, actions, strict=True)))


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("1. a\n3.14 **x** is pi\n2. b", ["a\n3.14 **x** is pi", "b"]),
        ("1. a\n2.5 b\n2. c", ["a\n2.5 b", "c"]),
        ("1. a\n    2. four spaces\n2. b", ["a\n    2. four spaces", "b"]),
        ("1. a\n\t2. a tab\n2. b", ["a\n\t2. a tab", "b"]),
        ("1. a\nand 2. b\n2. c", ["a\nand 2. b", "c"]),
        ("1. a\n3. b\n2. c", ["a\n3. b", "c"]),
        ("1. a\n   1. x\n   2. y\n2. b", ["a\n   1. x\n   2. y", "b"]),
        ("1. a\n2. b\n   1. x\n   2. y\n3. c", ["a", "b\n   1. x\n   2. y", "c"]),
        ("1. a\n2. b\n1. x\n2. y\n3. z\n3. c", ["a", "b\n1. x\n2. y\n3. z", "c"]),
        ("1. a\n2. b\n1. x\n2. y\n3. z", ["a", "b\n1. x\n2. y\n3. z"]),
        ("1. a\n1. x\n  1. p\n  2. q\n2. y\n2. b", ["a\n1. x\n  1. p\n  2. q\n2. y", "b"]),
        ("1. a\n1. x\n2. y\n2. b\n3. c", ["a\n1. x\n2. y", "b", "c"]),
        ("1. a\n```\n2. code\n```\n2. b", ["a\n```\n2. code\n```", "b"]),
        ("1. ```py\n2. code\n   ```\n2. b", ["```py\n2. code\n   ```", "b"]),
        ("1. a\n````\n```\n2. code\n````\n2. b", ["a\n````\n```\n2. code\n````", "b"]),
        ("1. a\n~~~\n2. code\n```\n~~~\n2. b", ["a\n~~~\n2. code\n```\n~~~", "b"]),
        ("1. a\n- ```\n2. code\n```\n2. b", ["a\n- ```\n2. code\n```", "b"]),
        ("1. $$x$$```\n2. no fence\n```", ["$$x$$```", "no fence\n```"]),
        ("1. a\n```\nnever closed\n2. b", ["a\n```\nnever closed", "b"]),
        ("1. $$x =\n2. y$$\n2. b", ["$$x =\n2. y$$", "b"]),
        ("1. a \\[ x\n2. y \\]\n2. b", ["a \\[ x\n2. y \\]", "b"]),
        ("1. \\begin{align*}\n\n2. y\\end{align*}\n2. b", ["\\begin{align*}\n\n2. y\\end{align*}", "b"]),
        ("1. it costs \\$$5\n2. b $$", ["it costs \\$$5", "b $$"]),
        ("1. a $$ stray\n\n2. b $$", ["a $$ stray", "b $$"]),
        ("1. a \\\\[2pt] b\n2. b \\]", ["a \\\\[2pt] b", "b \\]"]),
        ("1. \\begin{x} stray\n2. b", ["\\begin{x} stray", "b"]),
    ],
)
def test_what_only_looks_like_a_header_belongs_to_the_body(text, actions):
    assert bodies(text, "numbered") == actions


def test_a_list_that_never_reaches_2_is_passed_over():
    assert cut("Given:\n1. a fact\n1. x\n1. y\n2. z")[1:] == ("Given:\n1. a fact\n1. x\n", [("", "y"), ("", "z")])
    assert cut("1. only\n\nAgain:\n1. a\n2. b")[1:] == ("1. only\n\nAgain:\n", [("", "a"), ("", "b")])
    assert parse("1. a\n```\n2. b\n```", "numbered") == "one_step"


def test_a_preamble_with_a_list_of_its_own_does_not_hide_titled_steps():
    text = "Given:\n1. x\n2. y\nSo:\n1. **A** a\n2. **B** b"
    assert cut(text) == ("titled", "Given:\n1. x\n2. y\nSo:\n", [("A", "a"), ("B", "b")])


def test_auto_takes_the_larger_steps():
    inner = "## Step 1: Look\n1. **a** x\n2. **b** y\n## Step 2: Leap\nz"
    assert cut(inner)[0] == "hash-step"
    assert cut("1. **a** x\n## Step 1: p\nq\n## Step 2: r\ns\n2. **b** y")[0] == "titled"
    some = "1. **a** x\n2. **b** y\n3. z"
    assert cut(some) == ("numbered", "", [("", "**a** x"), ("", "**b** y"), ("", "z")])
    assert cut(some, "titled")[2] == [("a", "x"), ("b", "y\n3. z")]


def test_auto_would_rather_have_something_in_every_step():
    text = "1. **x = 2**\n2. **y = 3**"
    assert cut(text) == ("numbered", "", [("", "**x = 2**"), ("", "**y = 3**")])
    assert cut(text, "titled")[2] == [("x = 2", ""), ("y = 3", "")]
    assert cut("## Step 1: a\n## Step 2: b") == ("hash-step", "", [("a", ""), ("b", "")])


@pytest.mark.parametrize("format", ["auto", *FORMATS])
def test_reasons(format):
    assert parse("", format) == parse(" \n\t", format) == "empty"
    assert parse("...", format) == "no_steps"
    assert parse("So it is four", format) == ("one_step" if format in ("auto", "sentences", "lines") else "no_steps")


def test_one_header_is_one_step():
    assert [parse(text, format) for text, format in [
        ("1. **A** b", "titled"), ("# Step 1\na", "hash-step"), ("Step 1: a", "step"), ("1. a", "numbered"),
    ]] == ["one_step"] * 4  # fmt: skip


def test_sentences_and_lines():
    text = '---\nWe have 2.5 apples, e.g. Red ones. "Good!" Then $a. B$ is 3. 12 is more. So 5. Then\n$$x.'
    text += "\nY$$ so. Done\n\n1. Last? Yes"
    assert bodies(text, "sentences") == [
        "We have 2.5 apples, e.g. Red ones.",
        '"Good!"',
        "Then $a. B$ is 3. 12 is more.",
        "So 5.",
        "Then\n$$x.\nY$$ so.",
        "Done",
        "1. Last?",
        "Yes",
    ]
    assert bodies(text, "lines") == [
        'We have 2.5 apples, e.g. Red ones. "Good!" Then $a. B$ is 3. 12 is more. So 5. Then\n$$x.\nY$$ so. Done',
        "1. Last? Yes",
    ]


@pytest.mark.parametrize(
    ("body", "number", "format", "place"),
    [
        ("x = 2\n3. **Say** 2", 3, "titled", 6),
        ("x = 2\n\n  3. Say 2", 3, "numbered", 7),
        ("x = 2\n3. Say 2", 3, "titled", None),
        ("x = 2\n4. Say 2", 3, "numbered", None),
        ("x = 2\n   1. p\n   2. q\n   3. r", 3, "numbered", None),
        ("1. p\n   2. q", 2, "numbered", None),
        ("1. p\n2. q", 2, "numbered", 5),
        ("2. p\n3. q", 3, "numbered", 5),
        ("3. the step itself, misnumbered", 3, "numbered", None),
        ("```\n3. q\n```", 3, "numbered", None),
        ("a\n## Step 3: b", 3, "hash-step", 2),
        ("a\nStep 3: b", 3, "step", 2),
        ("One. Two.", 7, "sentences", 5),
        ("One. Two.", 7, "lines", None),
        ("One.\n Two.", 7, "lines", 6),
        ("", 2, "numbered", None),
        ("", 2, "sentences", None),
    ],
)
def test_find_header(body, number, format, place):
    assert find_header(body, number, format) == place


@pytest.mark.parametrize(
    ("text", "lead", "title"),
    [
        ("2. **Say** 4", "2. **Say** ", "Say"),
        ("## Step 7: Say\n\n4", "## Step 7: Say\n\n", "Say"),
        ("Step 7: 4", "Step 7: ", ""),
        ("12. 4", "12. ", ""),
        ("4 is 12. 4", "", ""),
        ("3.14 is pi", "", ""),
        ("", "", ""),
    ],
)
def test_the_text_of_one_step(text, lead, title):
    step = of_text(text)
    assert (step.lead, step.title, step.text) == (lead, title, text)


HEADS = [
    "1. ",
    "2. ",
    "3. ",
    "4. ",
    "1) ",
    "**A** ",
    "**1. B** ",
    "## Step 1: T",
    "# Step 2",
    "## Step 3: ",
    "Step 1: ",
]
MARKS = [
    "**Step 2:** ",
    "Step 3. ",
    "```",
    "````py",
    "~~~",
    "$$",
    "\\[",
    "\\]",
    "\\begin{a}",
    "\\end{a}",
    "$",
    "`",
    "**",
]
SPACE = ["\n", "\n\n", " ", "   ", "    ", "\t", "\r\n", "\x0b", "\u2028"]
WORDS = ["x = 2", "So. ", "Then? A ", "- ", "> ", "3.14 ", ".", "\ud800", "e.g. B", "١. "]
PIECES = st.one_of(st.sampled_from(HEADS + MARKS + SPACE + WORDS), st.text(max_size=3))
TEXTS = st.lists(PIECES, max_size=30).map("".join)


def holds(text, format):
    """The laws of a parse, for any text: nothing is lost, and each body is one step to the gate."""
    found = parse(text, format)
    if isinstance(found, str):
        assert found in ("empty", "no_steps", "one_step")
        return
    assert render(found) == text
    assert len(found.steps) >= 2
    for number, step in enumerate(found.steps, start=1):
        assert step.action == step.action.lstrip() or found.format in ("sentences", "lines")
        for body in (step.action, step.action.strip()):
            assert find_header(body, number + 1, found.format) is None
        if found.format in ("sentences", "lines"):
            assert step.lead == "" and step.action.strip()
        else:
            header = of_text(step.text)
            assert header.text == step.text and header.lead.strip()


@settings(max_examples=700)
@given(TEXTS, st.sampled_from(["auto", *FORMATS]))
def test_any_text_parses_or_says_why(text, format):
    holds(text, format)


@settings(max_examples=700)
@given(TEXTS, st.integers(1, 5), st.sampled_from(FORMATS))
def test_a_header_found_is_a_header(text, number, format):
    place = find_header(text, number, format)
    assert place is None or (0 < place < len(text) and text[:place].strip())
    assert of_text(text).text == text


@settings(max_examples=600)
@given(st.lists(TEXTS, min_size=2, max_size=5))
def test_steps_that_are_written_are_found(actions):
    without = str.maketrans({"\n": " ", "\r": " ", **dict.fromkeys("$\\`~", None)})  # no line, no block begins inside
    plain = [f"x{action}".translate(without) for action in actions]
    text = "So:\n" + "".join(f"{k}. **T{k}** {action}\n" for k, action in enumerate(plain, start=1))
    assert cut(text, "titled")[2] == [(f"T{k}", action.strip()) for k, action in enumerate(plain, start=1)]


@pytest.mark.slow
@settings(max_examples=10_000)
@given(TEXTS, st.sampled_from(["auto", *FORMATS]))
def test_ten_thousand_texts(text, format):
    holds(text, format)


@pytest.mark.parametrize(
    "line",
    [
        "1. x\n",
        "```a\n",
        "````a\n```\n",
        "~~~~\n```\n",
        "$$\n",
        "\\[",
        "\\begin{a}",
        "**",
        "1. **",
        "- - - ",
        " ",
        "> ",
        "`",
        "A. ",
        "\\(",
    ],
)
def test_no_text_is_slow(line):
    text = "1. a\n" + line * (60_000 // len(line)) + "\n2. b"
    started = time.process_time()
    assert all(render(found) == text for format in FORMATS if isinstance(found := parse(text, format), Solution))
    find_header(text, 3, "numbered")
    assert time.process_time() - started < 3.0
