"""The rule that every option has a test that fails when it is ignored."""

import argparse
import ast
import functools
import importlib
from pathlib import Path

import pytest

from btrfs_backup_ng.cli import backup_options
from btrfs_backup_ng.cli.commands import VERBS

_VERBS = [importlib.import_module(name) for name in VERBS.values()]
TREES = [backup_options.build_parser(), *(module.build_parser() for module in _VERBS)]


@functools.cache
def _covered() -> set[str]:
    """Read from all test modules, here and beside, what their tests say they cover."""
    found = set()
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "covers":
                    assert node.name.startswith("test_")
                    found |= {ast.literal_eval(word) for word in mark.args}
    return found


def _options(tree: argparse.ArgumentParser) -> set[str]:
    return {word for action in tree._actions for word in action.option_strings}


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.prog)
def test_every_option_has_a_test(tree: argparse.ArgumentParser):
    options = _options(tree)
    assert len(options) > 3
    assert options - _covered() == set()


def test_no_test_claims_an_option_that_is_none():
    assert _covered() - set().union(*map(_options, TREES)) == set()


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.prog)
def test_every_option_explains_itself(tree: argparse.ArgumentParser):
    for action in tree._actions:
        if action.help is not argparse.SUPPRESS:
            assert action.help, action.option_strings
