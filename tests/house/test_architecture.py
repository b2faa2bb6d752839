"""The page about the architecture is true: it names what there is, and briefly."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

from tests.house.test_floors import PACKAGE, ROOT, TOWER, read_package
from tests.support.program import CHECKOUT

PAGE = CHECKOUT / "docs" / "architecture.rst"
TOP = CHECKOUT / PACKAGE

#: Where a module or folder is meant: the columns and paragraphs that speak of the code.
_PATH = re.compile(r"``((?:[a-z_]+/)+[a-z_.*]+|__\w+__)``")


def rows(title: str) -> Iterator[tuple[str, str]]:
    """Yield the cells of a table of two columns that stands below a title."""
    below = PAGE.read_text().split(f"\n{title}\n", 1)[1]
    table = re.search(r"^(=+) (=+)\n.*?\n=+ =+\n(.*?)\n=+ =+$", below, re.M | re.S)
    assert table, f"there is no table below {title}"
    width = len(table[1]) + 1
    for line in table[3].splitlines():
        yield line[:width].strip(), line[width:].strip()


def test_the_tower_has_a_row_for_each_folder_in_their_order():
    assert [name.strip("`") for name, _ in rows("The tower")] == list(TOWER)


def test_every_path_on_the_page_is_there():
    named = [name for name in _PATH.findall(PAGE.read_text()) if name != "cli/NAME"]
    assert len(named) > 50
    for name in named:
        if "NAME" in name or name.startswith("tests/"):
            continue
        tried = (TOP / name, TOP / f"{name}.py", CHECKOUT / name, TOP / name / "run.py")
        is_there = any(path.exists() for path in tried) or any(TOP.rglob(name))
        assert is_there, f"{name} is not in the package"


def test_no_cell_is_longer_than_120_characters():
    cells = [
        cell for title in ("The tower", "Exactly one place") for cell in rows(title)
    ]
    assert max(len(part) for cell in cells for part in cell) <= 120


def test_only_four_modules_are_in_the_packages_root():
    assert sorted(path.stem for path in TOP.glob("*.py")) == sorted(ROOT)


def test_each_folder_says_in_one_sentence_what_it_is():
    for folder in [path.parent for path in TOP.rglob("*.py")]:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert text and text.endswith(".") and text.count(". ") == 0, folder


def test_no_class_has_the_name_of_another():
    names = Counter(
        node.name
        for module in read_package(TOP)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    )
    assert {name: count for name, count in names.items() if count > 1} == {}
