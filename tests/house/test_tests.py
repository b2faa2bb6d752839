"""The tests reach for what a module offers, and not for its private names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import CHECKOUT

#: Packages of which every module has a public side.
OURS = ("btrfs_backup_ng", "tests", "benchmarks")
#: Names of the standard library that have no public form.
FOREIGN = ("_actions", "_exit", "_replace")
PATHS = sorted((CHECKOUT / "tests").rglob("*.py"))


def is_private(name: str) -> bool:
    """Whether a name is meant for its own module or class."""
    return name.startswith("_") and not name.startswith("__") and name not in FOREIGN


def reaches(text: str) -> list[str]:
    """Find where a module reaches for a private name of another module or object.

    That is an import, an attribute of anything but ``self`` and ``cls``, or a name in a
    string that monkeypatch is told to replace.
    """
    return [found for node in ast.walk(ast.parse(text)) for found in _reaches(node)]


def _reaches(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.ImportFrom(module=str(module), names=names):
            if module.partition(".")[0] in OURS:
                yield from (
                    f"{module}.{name.name}" for name in names if is_private(name.name)
                )
        case ast.Attribute(value=value, attr=name) if is_private(name):
            if ast.unparse(value) not in ("self", "cls"):
                yield ast.unparse(node)
        case ast.Call(func=ast.Attribute(attr="setattr" | "delattr"), args=args):
            for word in args[:2]:
                match word:
                    case ast.Constant(value=str(path)):
                        if is_private(path.rpartition(".")[2]):
                            yield ast.unparse(node)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_no_test_reaches_for_a_private_name(path: Path):
    assert reaches(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "from btrfs_backup_ng.process.child import Child, _spawn",
        "from tests.support.accounts import _call",
        "child._live",
        "print(connected(server)._login.name)",
        "monkeypatch.setattr(child, '_spawn', None)",
        "monkeypatch.delattr('btrfs_backup_ng.process.child._spawn')",
    ],
)
def test_a_reach_is_found(line: str):
    assert len(reaches(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "from __future__ import annotations",
        "from btrfs_backup_ng.__util__ import visible",
        "self._numbers = _numbers = 1",
        "os._exit(1)",
        "monkeypatch.setattr(child, 'END_GRACE_S', 0.2)",
    ],
)
def test_what_is_public_or_its_own_is_no_reach(line: str):
    assert reaches(line) == []
