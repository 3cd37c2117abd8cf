"""The task alone, out of the first message in which a scaffold buries it.

The rule: the text between the tags that scaffolds put around an issue (`<pr_description>`, `<issue_description>`, ...);
else between `ISSUE:` and `INSTRUCTIONS:`; else after `Please solve this issue:` up to the scaffold's instructions; else
the whole message. Where `<uploaded_files>` names the repository's folder, a first line keeps it, for commands name it.
"""

from __future__ import annotations

import re

TAGS = ("pr_description", "issue_description", "problem_statement", "issue", "task", "task_description", "github_issue")
TAGGED = {tag: re.compile(rf"<{tag}>(.*?)</{tag}>", re.DOTALL) for tag in TAGS}
UPLOADED = re.compile(r"<uploaded_files>([^<]*)</uploaded_files>")
OPENINGS = re.compile(r"\A\s*(Consider the following (PR|issue) description:\s*\n)?")
UNTAGGED = (
    re.compile(r"^ISSUE:\s*\n(.*?)^\s*INSTRUCTIONS:", re.DOTALL | re.MULTILINE),
    re.compile(r"\A\s*Please solve this issue:(.*?)^\s*You can execute bash commands", re.DOTALL | re.MULTILINE),
)


def task_of(text: str) -> str:
    """The task in a scaffold's first message, stripped; "" if there is none.

    >>> task_of("<uploaded_files>/repo</uploaded_files> <pr_description>It fails.</pr_description> Help!")
    'Repository: /repo\\n\\nIt fails.'
    """
    text = text.replace("\r\n", "\n")
    tagged = (found for tag in TAGS if (found := TAGGED[tag].search(text)))
    untagged = (found for pattern in UNTAGGED if (found := pattern.search(text)))
    found = next(tagged, None) or next(untagged, None)
    task = OPENINGS.sub("", found[1] if found else text).strip()
    return with_folder(task, text) if found else task


def with_folder(task: str, text: str) -> str:
    """`task` under the line that says where the repository lies, if `text` has one."""
    uploaded = UPLOADED.search(text)
    folder = uploaded[1].strip() if uploaded else ""
    return f"Repository: {folder}\n\n{task}" if folder and task else task
