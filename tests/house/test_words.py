"""The words of docstrings and comments: a verb in front, and things by their names."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import CHECKOUT

PACKAGE = CHECKOUT / "btrfs_backup_ng"
FOLDERS = [PACKAGE, CHECKOUT / "tests" / "support", CHECKOUT / "benchmarks"]
#: Words -> limit on their number in 1,000.
LIMITS = {
    r"nobody|somebody|whoever": 0.0,
    r"anew|is none|no more\b(?! than)|likewise|as ever": 0.0,
    r"what": 4.0,
    r"there": 4.0,
    r"tells?|told": 0.5,
    r"go on|goes on|going on|went on": 0.5,
    r"we|us|our|ours": 0.5,
}


def docstrings(text: str) -> Iterator[str]:
    """Return the docstrings of a module, its classes and functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            yield ast.get_docstring(node) or ""


def comments(text: str) -> str:
    """Return its comments in one line, as a sentence may go over several."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join(
        t.string.lstrip("#: ") for t in tokens if t.type == tokenize.COMMENT
    )


def wrongly_begun(text: str) -> list[str]:
    """Return the docstrings that say who owns or gives, and not what is done."""
    return [doc for doc in docstrings(text) if re.match(r"(Own|Give)s?\b", doc)]


def too_many(text: str) -> list[str]:
    """Return which words there are too many of, and how many in 1,000."""
    size = len(re.findall(r"[\w'-]+", text))
    found = []
    for words, limit in LIMITS.items():
        count = len(re.findall(rf"\b(?:{words})\b", text, re.IGNORECASE))
        if count * 1000 > limit * size:
            found.append(f"{words}: {count * 1000 / size:.1f} (at most {limit:g})")
    return found


def shell_comments(text: str) -> str:
    """Return the comment lines of a shell script."""
    lines = map(str.strip, text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def prose(folder: Path) -> str:
    """Return all docstrings and comments below a folder, each in one line."""
    texts = [path.read_text() for path in sorted(folder.rglob("*.py"))]
    parts = [part for text in texts for part in (*docstrings(text), comments(text))]
    scripts = sorted(folder.rglob("*.sh"))
    parts += [shell_comments(path.read_text()) for path in scripts]
    return "\n".join(" ".join(part.split()) for part in parts)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_docstring_begins_with_own_or_give(path: Path):
    assert wrongly_begun(path.read_text()) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_words_of_a_folder_are_plain(folder: Path):
    assert too_many(prose(folder)) == []


@pytest.mark.parametrize("words", ["Give the name.", "Own the lock.", "Gives a name."])
def test_a_wrong_beginning_is_found(words: str):
    wrong = f'class A:\n    def name():\n        """{words}"""\n'
    assert wrongly_begun(wrong) == [words]
    assert wrongly_begun('"""Given names."""\ndef f():\n    "Return it."') == []


def test_words_are_counted_in_docstrings_and_comments(tmp_path: Path):
    (tmp_path / "a.py").write_text(
        '"""Read what is there.\n\nThere is\nnone."""\n'
        "nobody = 'somebody'  # whoever\n# asks once\n# more, or no\n# more\n"
    )
    (tmp_path / "a.sh").write_text("#!/bin/sh\n# tell: we\ntold # us\n# go\n# on\n")
    found = prose(tmp_path)
    assert found.split() == (
        "Read what is there. There is none. whoever asks once more, or no more"
        " !/bin/sh tell: we go on".split()
    )
    assert [line.rpartition(": ")[0] for line in too_many(found)] == [*LIMITS]
    assert too_many("the name of a snapshot " * 100) == []
    assert too_many("what " * 4 + "word " * 996) == []
    assert too_many("what " * 5 + "word " * 995) == ["what: 5.0 (at most 4)"]
