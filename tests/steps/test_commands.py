"""The program of a shell command: the rule, case by case, and that nothing breaks it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.steps.commands import program

CASES = {
    # what only prepares is passed over
    "cd /testbed && grep -rn x .": "grep",
    "cd a; ls": "ls",
    "cd /testbed\nls": "ls",
    "export PYTHONPATH=$PYTHONPATH:$(pwd)\npython3 -m sphinx -b html": "sphinx",
    "set -e; . venv/bin/activate && make": "make",
    "A=1 B='x y' sed s/a/b/ f": "sed",
    "sudo -u root timeout 10s nice -n 5 git diff": "git",
    "env -i X=1 git diff": "git",
    "# first a word\nls": "ls",
    "[ -d x ] && head x": "head",
    "bin/test sympy": "test",
    "if grep -q x f; then cat f; fi": "grep",
    "for f in *.py; do head $f; done": "head",
    "(cd a && ls)": "ls",
    "! grep x y": "grep",
    # the first program of a list or pipeline, without its folder and version
    "cat a | grep x": "cat",
    "find . -name '*.py' | xargs grep x": "find",
    "/usr/bin/python3.9 fix.py": "python",
    "./tests/runtests.py admin": "runtests.py",
    "pip3 install x": "pip",
    # programs that do two jobs
    "sed -n 1,5p f": "sed",
    "sed -i 's/a/b/' f": "sed -i",
    "sed -E -i.bak s/a/b/ f": "sed -i",
    "sed -e 's/-i/x/' f": "sed",
    "cat <<'EOF' > fix.py\nls\nEOF": "cat >",
    "cat > fix.py <<'EOF'\nls\nEOF": "cat >",
    "cat f 2>/dev/null": "cat",
    "cat f > /dev/null": "cat",
    "cat f >> g": "cat >",
    "echo '>' f": "echo",
    "echo hi >> f": "echo >",
    "python fix.py": "python",
    "python -c 'print(1)'": "python -c",
    "python - <<'EOF'\nprint(1)\nEOF": "python -c",
    "python3 <<EOF\nEOF": "python -c",
    "python3 -X dev -W error fix.py": "python",
    "python -m pytest -x": "pytest",
    "bash -lc 'cd /x && make -j'": "make",
    "bash run.sh": "bash",
    # the closing command
    "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached": "submit",
    "cat > notes <<EOF\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\nEOF": "cat >",
    "submit": "submit",
    # nothing but preparation, or nothing at all
    "cd /testbed": "cd",
    "X=$(ls)": "",
    "# only words": "",
    "": "",
    # quotes that never close are ordinary characters
    "edit 1:1\nx = 'unclosed\nend_of_edit": "edit",
}


@pytest.mark.parametrize(("command", "name"), CASES.items(), ids=range(len(CASES)))
def test_the_rule(command, name):
    assert program(command) == name


@given(st.text() | st.lists(st.sampled_from([*"ab'\"\\`$()<>|&;# \n=-", "cd ", "bash -c ", "<<EOF"])).map("".join))
def test_any_text_has_a_program_or_none(text):
    assert program("cd /testbed && " + text) == (program(text) or "cd")


@pytest.mark.parametrize("piece", ["$(", "'", '"', '"\\', "`", "($((", "a=$(", "\\", "bash -c "])
def test_no_text_is_slow(piece):
    start = time.perf_counter()
    program(piece * 4000)
    assert time.perf_counter() - start < 0.5
