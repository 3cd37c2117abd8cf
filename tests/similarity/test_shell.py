"""Commands cut where a shell would cut them, and the files they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.similarity.shell import MOST, files, read_script, split_commands

SPLITS = {
    "cd /a && ls -l; pwd": ["cd /a", "ls -l", "pwd"],
    "a | b |& c || d & e": ["a", "b", "c", "d", "e"],
    "echo 'a; b' \"c && d\" e\\;f": ["echo 'a; b' \"c && d\" e\\;f"],
    "make > out 2>&1 &> x": ["make > out 2>&1 &> x"],
    "(cd /a; ls) && pwd": ["(cd /a; ls)", "pwd"],
    "x=$(ls; pwd) y": ["x=$(ls; pwd) y"],
    "ls\n\npwd\n": ["ls", "pwd"],
    "ls # not; this\npwd": ["ls", "pwd"],
    "echo a#b": ["echo a#b"],
    "cat <<EOF > f; ls\na; b\nEOF\npwd": ["cat <<EOF > f", "ls\na; b\nEOF", "pwd"],
    "cat > f << 'E'\na && b\nE\npwd": ["cat > f << 'E'\na && b\nE", "pwd"],
    "cat << EOF\nnever ends; here": ["cat << EOF\nnever ends; here"],
    "echo 'open; ls": ["echo 'open", "ls"],
    "": [],
    " ;; ": [],
}
FILES = {
    "cat ./src/a.py": ("src/a.py",),
    "sed -n '1,20p' a.py": ("a.py",),
    "sed -i 's/a.py/b.py/' c.py d.txt": ("c.py", "d.txt"),
    "grep -rn 'x.py' src": (),
    "grep -n foo.bar src/x.c | head": ("src/x.c",),
    "cat > 'my.txt' << EOF\nimport a.py\nEOF": ("my.txt",),
    "cd src/a.d && python t.py > out.log": ("t.py", "out.log"),
    "python -m django.core 3.11 https://x.org": (),
    "find . -name '*.py'": (),
}


@pytest.mark.parametrize("command", SPLITS)
def test_splits(command):
    assert split_commands(command) == SPLITS[command]


@pytest.mark.parametrize("command", FILES)
def test_files(command):
    assert files(read_script(command)) == FILES[command]


def test_what_only_prepares_stands_apart_unless_there_is_nothing_else():
    script = read_script("cd /a && export X=1; X=2 sudo python3 -m pytest -x | tail -5")
    assert script.setting == "cd /a; export X=1"
    assert [(one.program, one.arguments) for one in script.commands] == [("pytest", "-x"), ("tail", "-5")]
    assert script.main == "pytest"
    assert (read_script("cd /a").setting, read_script("cd /a").main) == ("", "cd")
    assert (read_script("").main, read_script("").commands) == ("", ())


def test_so_many_commands_and_the_rest_is_one():
    found = split_commands("a;" * 1000)
    assert len(found) == MOST + 1
    assert found[-1] == "a;" * (1000 - MOST)


@given(
    st.lists(
        st.sampled_from(
            ["'", '"', "\\", "<<E", "\nE\n", ";", "&&", "(", ")", "`", "$(", "#", "a", " ", "\n", ">", "\ud800"]
        )
    )
)
def test_nothing_is_lost_but_separators_and_comments(pieces):
    command = "".join(pieces)
    found = split_commands(command)
    assert all(text and text in command for text in found if "E" not in text)
    assert "".join(found).count("a") == command.count("a") or "#" in command
    assert read_script(command) == read_script(command)
