"""The house stands: imports point down, and each thing is done in its one place."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.program import CHECKOUT

PACKAGE = "btrfs_backup_ng"

# The tower, top first: a folder imports only folders below it. docs/architecture.rst
# tells people the same.
TOWER = (
    "cli/commands",
    "cli",
    "actions",
    "transfer",
    "place",
    "session",
    "endpoint",
    "host",
    "sshutil",
    "btrfs",
    "process",
    "sendstream",
    "wire",
    "core",
)
# Every folder may import these, which import none.
GROUND = ("__init__", "__util__", "__logger__")
ROOT = (*GROUND, "__main__")
# Where each part stands for itself, and what may all the same import what.
APART = {
    "actions": {("backup", "prune")},
    "cli/commands": {
        ("demo", "backup"),
        ("run", "backup"),
        ("send", "run"),
        ("snapshot", "run"),
    },
}
# Pure, with all of core/: values in, values out.
PURE = (
    "endpoint/staging",
    "actions/doctor/diagnosis",
    "actions/restore/swap",
    "actions/verify/identity",
    "actions/verify/manifest",
    "actions/versions/timeline",
    *(
        f"sendstream/{name}"
        for name in (
            "format",
            "crc32c",
            "names",
            "checkpoint",
            "reader",
            "size",
            "tree",
            "changes",
        )
    ),
)
STARTS = "process/child"

# What reads a clock, touches files, starts things or talks is no pure thought.
IMPURE_IMPORTS = set(
    "asyncio fcntl glob io logging multiprocessing pathlib random secrets select shutil"
    " signal socket subprocess tempfile threading time".split()
)
IMPURE_CALLS = re.compile(
    r"(open|print|input)"
    r"|(datetime|date)(\.datetime|\.date)?\.(now|today|utcnow)"
    r"|os\.(?!fsencode|fsdecode|fspath|path\.).*"
    r"|os\.path\.(exists|lexists|is\w+(?<!isabs)|get\w+|realpath|abspath|expand\w+"
    r"|same\w+)"
)
STARTS_PROCESSES = re.compile(
    r"os\.(system|popen|fork|forkpty|exec\w+|spawn\w+|posix_spawnp?)|pty\.\w+"
    r"|asyncio\.create_subprocess_\w+"
)


@dataclass(frozen=True)
class Module:
    """One module, named by its path in the package: ``endpoint/local``."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        """The folder of the tower that it is in, or "" in the package's root."""
        inside = (folder for folder in TOWER if self.name.startswith(f"{folder}/"))
        return next(inside, "")

    @property
    def part(self) -> str:
        """The first name below its folder: of an action, or of a command."""
        return self.name.removeprefix(self.folder).split("/")[1]

    @property
    def is_pure(self) -> bool:
        return self.folder == "core" or self.name in PURE

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield the line and dotted name of each thing that is imported."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    above = [PACKAGE, *self.name.split("/")][: -node.level]
                    base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    yield node.lineno, f"{base}.{alias.name}"

    def calls(self) -> Iterator[tuple[int, str]]:
        """Yield the line and dotted name of each thing that is called."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node.lineno, ast.unparse(node.func)


def read_package(top: Path) -> list[Module]:
    return [
        Module(path.relative_to(top).with_suffix("").as_posix(), path.read_text())
        for path in sorted(top.rglob("*.py"))
    ]


def own_imports(module: Module, names: set[str]) -> Iterator[tuple[int, str]]:
    """Yield the line and name of each module of ours that is imported.

    ``from package import thing`` imports a module of that name, if there is one.
    """
    for line, dotted in module.imports():
        first, *rest = dotted.split(".")
        if first != PACKAGE:
            continue
        for parts in rest, rest[:-1]:
            name = "/".join(parts)
            package = "/".join([*parts, "__init__"])
            if found := {name, package} & names:
                yield line, found.pop()
                break


def imports_point_down(modules: list[Module]) -> Iterator[str]:
    known = {module.name: module for module in modules}
    for module in modules:
        for line, name in own_imports(module, set(known)):
            other, at = known[name], f"{module.name}.py:{line}: imports {name}"
            if name == "__main__" or (module.name in GROUND and name not in GROUND):
                yield f"{at}, from the ground"
            elif not (module.folder and other.folder):
                continue
            elif TOWER.index(other.folder) < TOWER.index(module.folder):
                yield f"{at} from above"
            elif module.folder == other.folder in APART:
                pair = (module.part, other.part)
                if len({*pair, "__init__"}) == 3 and pair not in APART[module.folder]:
                    yield f"{at}, beside it"


def imports_go_in_no_circle(modules: list[Module]) -> Iterator[str]:
    names = {module.name for module in modules}
    graph = {
        module.name: {other for _, other in own_imports(module, names)}
        for module in modules
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"a circle of imports: {' <- '.join(error.args[1])}"


def imports_are_at_the_top(modules: list[Module]) -> Iterator[str]:
    """An import in a function says ``# here:``, and why most calls do not need it."""
    for module in modules:
        lines = module.text.splitlines()
        for function in ast.walk(module.tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if not isinstance(node, ast.Import | ast.ImportFrom):
                        continue
                    if "  # here: " not in lines[node.lineno - 1]:
                        yield f"{module.name}.py:{node.lineno}: import in a function"


def only_the_standard_library(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for line, dotted in module.imports():
            if dotted.partition(".")[0] not in {*sys.stdlib_module_names, PACKAGE}:
                yield f"{module.name}.py:{line}: {dotted} is not of Python's own"


def values_are_made_in_one_way(modules: list[Module]) -> Iterator[str]:
    """``dataclasses`` makes each start slow: see ``core/value``."""
    for module in modules:
        for line, dotted in module.imports():
            if dotted.partition(".")[0] == "dataclasses":
                yield f"{module.name}.py:{line}: a value derives from core/value.Value"


def only_process_starts_processes(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.name in (STARTS, "process"):
            continue
        for line, dotted in module.imports():
            if dotted.partition(".")[0] in ("subprocess", "multiprocessing", "pty"):
                yield f"{module.name}.py:{line}: {dotted} belongs in {STARTS}.py"
        for line, dotted in module.calls():
            if STARTS_PROCESSES.fullmatch(dotted):
                yield f"{module.name}.py:{line}: {dotted} belongs in {STARTS}.py"


def no_shell_is_given_built_text(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                if not (isinstance(node.value, ast.Constant) and not node.value.value):
                    yield f"{module.name}.py:{node.value.lineno}: shell="


def only_main_catches_everything(modules: list[Module]) -> Iterator[str]:
    """``except BaseException`` may clean up, if it ends with a plain ``raise``."""
    for module in modules:
        if module.name == "__main__":
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = {"BaseException"} if node.type is None else names_in(node.type)
            last = node.body[-1]
            goes_on = isinstance(last, ast.Raise) and last.exc is None
            if "Exception" in caught or ("BaseException" in caught and not goes_on):
                yield f"{module.name}.py:{node.lineno}: catches everything"


def names_in(node: ast.expr) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def the_core_is_pure(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if not module.is_pure:
            continue
        for line, dotted in module.imports():
            if dotted.partition(".")[0] in IMPURE_IMPORTS:
                yield f"{module.name}.py:{line}: {dotted} is not for a pure module"
        for line, dotted in module.calls():
            if IMPURE_CALLS.fullmatch(dotted):
                yield f"{module.name}.py:{line}: {dotted}() is not for a pure module"


RULES = [
    imports_point_down,
    imports_go_in_no_circle,
    imports_are_at_the_top,
    only_the_standard_library,
    values_are_made_in_one_way,
    only_process_starts_processes,
    no_shell_is_given_built_text,
    only_main_catches_everything,
    the_core_is_pure,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    modules = read_package(CHECKOUT / PACKAGE)
    assert modules
    broken = list(rule(modules))
    assert not broken, "\n".join(broken)


# A package of which the examples are one module more.
OTHERS = {
    "__util__": "",
    "__main__": "from .cli.commands import backup",
    "cli/commands/__init__": "",
    "cli/commands/backup": "from btrfs_backup_ng.actions.backup.run import back_up",
    "cli/commands/demo": "from .backup import main",
    "actions/__init__": "",
    "actions/backup/run": "from btrfs_backup_ng.actions.prune import rules",
    "actions/prune/rules": "from btrfs_backup_ng.__util__ import visible",
    "transfer/__init__": "",
    "transfer/attempt": "from btrfs_backup_ng.host.common.local import LocalHost",
    "host/local": "from btrfs_backup_ng.process.child import child",
    "process/__init__": "",
    "process/child": "import subprocess",
    "wire/__init__": "",
    "core/plan": "",
}


def with_more(name: str, text: str) -> list[Module]:
    return [Module(*item) for item in {**OTHERS, name: text}.items()]


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (imports_point_down, "host/ssh", "import btrfs_backup_ng.transfer.attempt"),
        (imports_point_down, "host/ssh", "from btrfs_backup_ng import transfer"),
        (imports_point_down, "btrfs/parse", "from ..host import local"),
        (imports_point_down, "btrfs/parse", "from .. import transfer"),
        (imports_point_down, "core/model", "import btrfs_backup_ng.wire"),
        (imports_point_down, "core/naming", "import btrfs_backup_ng.process.child"),
        (imports_point_down, "cli/output", "from btrfs_backup_ng.cli import commands"),
        (imports_point_down, "cli/output", "from btrfs_backup_ng import __main__"),
        (imports_point_down, "__logger__", "from btrfs_backup_ng.core import plan"),
        (imports_point_down, "actions/status", "from .prune.rules import delete"),
        (imports_point_down, "actions/prune/rules", "from ..backup import run"),
        (imports_point_down, "cli/commands/diff", "from .backup import main"),
        (imports_go_in_no_circle, "process/child", "from ..host import local"),
        (imports_are_at_the_top, "host/ssh", "def f():\n if 1:\n  import os"),
        (only_the_standard_library, "host/ssh", "import requests"),
        (values_are_made_in_one_way, "core/plan", "from dataclasses import field"),
        (only_process_starts_processes, "host/ssh", "import subprocess"),
        (only_process_starts_processes, "host/ssh", "from subprocess import run"),
        (only_process_starts_processes, "host/ssh", "import os\nos.system('true')"),
        (no_shell_is_given_built_text, "process/child", "run(text, shell=True)"),
        (only_main_catches_everything, "host/ssh", "try: f()\nexcept: pass"),
        (only_main_catches_everything, "host/ssh",
         "try: f()\nexcept (OSError, Exception): pass"),
        (only_main_catches_everything, "host/ssh",
         "try: f()\nexcept BaseException:\n pass"),
        (the_core_is_pure, "core/plan", "import time"),
        (the_core_is_pure, "core/plan", "datetime.now(UTC)"),
        (the_core_is_pure, "actions/restore/swap", "os.stat(path)"),
        (the_core_is_pure, "sendstream/tree", "os.path.exists(path)"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_seen(rule, name, text):
    assert not list(rule(with_more(name, OTHERS.get(name, ""))))
    assert len(list(rule(with_more(name, text)))) == 1


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (only_main_catches_everything, "__main__", "try: f()\nexcept Exception: pass"),
        (only_main_catches_everything, "host/ssh",
         "try: f()\nexcept BaseException:\n g()\n raise"),
        (the_core_is_pure, "core/plan",
         "os.path.join(os.fsdecode(a), b); os.path.isabs(a)"),
        (imports_point_down, "__main__", "from . import __version__, cli"),
        (imports_point_down, "cli/commands/diff", "from . import run_verb"),
        (imports_point_down, "actions/verify/run", "from .identity import Check"),
        (imports_are_at_the_top, "host/ssh",
         "def f():\n  import os  # here: few need it"),
    ],
)  # fmt: skip
def test_what_is_allowed_breaks_no_rule(rule, name, text):
    assert not list(rule(with_more(name, text)))
