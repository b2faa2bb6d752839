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

# Top floor first.  A module imports from lower floors, and from its own as long as no
# cycle comes of it.  docs/architecture.md tells people the same.
FLOORS = {
    "7 door": "__main__",
    "6 desk": """
        cli/__init__ cli/words cli/values cli/parser cli/sshopts cli/classic cli/output
        cli/version cli/root cli/layout cli/verb cli/tell cli/commands/__init__
        cli/commands/demo cli/commands/doctor cli/commands/listing cli/commands/status
        cli/commands/prune cli/commands/diff cli/commands/versions cli/asking
        cli/dropping cli/settling cli/thinner cli/timeline cli/restoring
        cli/commands/restore cli/commands/verify
    """,
    "5 verbs": """
        context backup target room delivery prune doctor listing relations status
        leftovers compare versions lookup versiondiff thinning deletion settle finding
        restore files shelves scratch verify
    """,
    "4 places": """
        endpoint/__init__ endpoint/common endpoint/local endpoint/ssh endpoint/shell
        locks turns holds origins history route probe measure transfer progress
        preflight trees verified forecast
    """,
    "3 hands": """
        process loop silence hop pipeline checkpoints host localhost sshutil/__init__
        sshutil/master sshutil/login sshutil/passwords sshutil/refusal sshutil/host walk
        clock
    """,
    "2 words": """
        command codecs entry record wire/__init__ wire/grammar wire/verbs wire_versions
        btrfs/__init__ btrfs/facts btrfs/ioctl btrfs/listing btrfs/extents btrfs/parse
        appraisal wire_hash
    """,
    "1 mind": """
        location model naming staging retention plan report diagnosis timeline
        sendstream/__init__ sendstream/format sendstream/crc32c sendstream/checkpoint
        sendstream/reader sendstream/size sendstream/tree sendstream/changes policy
        simulation choose swap manifest identity judgement
    """,
    "0 ground": """
        __init__ __util__ __logger__
    """,
}
FLOOR_OF = {
    module: floor for floor, modules in FLOORS.items() for module in modules.split()
}
PACKAGE = "btrfs_backup_ng"

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
    def floor(self) -> int | None:
        floor = FLOOR_OF.get(self.name)
        return int(floor.split()[0]) if floor else None

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


def every_module_has_a_floor(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.floor is None:
            yield f"{module.name}.py: put it in FLOORS and in docs/architecture.md"
    for name in sorted(FLOOR_OF.keys() - {module.name for module in modules}):
        yield f"{name}.py: it is in FLOORS, but not in the package"


def imports_point_down(modules: list[Module]) -> Iterator[str]:
    names = {module.name for module in modules}
    for module in modules:
        for line, other in own_imports(module, names):
            here, there = FLOOR_OF.get(module.name), FLOOR_OF.get(other)
            if here and there and int(there[0]) > int(here[0]):
                yield f"{module.name}.py:{line}: imports {other} from above ({there})"


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
    for module in modules:
        for function in ast.walk(module.tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        yield f"{module.name}.py:{node.lineno}: import in a function"


def only_the_standard_library(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for line, dotted in module.imports():
            if dotted.partition(".")[0] not in {*sys.stdlib_module_names, PACKAGE}:
                yield f"{module.name}.py:{line}: {dotted} is not of Python's own"


def only_process_starts_processes(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.name == "process":
            continue
        for line, dotted in module.imports():
            if dotted.partition(".")[0] in ("subprocess", "multiprocessing", "pty"):
                yield f"{module.name}.py:{line}: {dotted} belongs in process.py"
        for line, dotted in module.calls():
            if STARTS_PROCESSES.fullmatch(dotted):
                yield f"{module.name}.py:{line}: {dotted} belongs in process.py"


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


def the_mind_is_pure(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.floor != 1:
            continue
        for line, dotted in module.imports():
            if dotted.partition(".")[0] in IMPURE_IMPORTS:
                yield f"{module.name}.py:{line}: {dotted} is not for a pure module"
        for line, dotted in module.calls():
            if IMPURE_CALLS.fullmatch(dotted):
                yield f"{module.name}.py:{line}: {dotted}() is not for a pure module"


RULES = [
    every_module_has_a_floor,
    imports_point_down,
    imports_go_in_no_circle,
    imports_are_at_the_top,
    only_the_standard_library,
    only_process_starts_processes,
    no_shell_is_given_built_text,
    only_main_catches_everything,
    the_mind_is_pure,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    modules = read_package(CHECKOUT / PACKAGE)
    assert modules
    broken = list(rule(modules))
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (every_module_has_a_floor, "cellar", ""),
        (imports_point_down, "host", "from btrfs_backup_ng.transfer import send"),
        (imports_point_down, "host", "from btrfs_backup_ng import transfer"),
        (imports_point_down, "btrfs/parse", "from ..process import run"),
        (imports_point_down, "btrfs/parse", "from .. import process"),
        (imports_point_down, "model", "import btrfs_backup_ng.wire"),
        (imports_point_down, "naming", "from btrfs_backup_ng.btrfs import Facts"),
        (imports_go_in_no_circle, "process", "from . import host"),
        (imports_are_at_the_top, "host", "def f():\n if 1:\n  import os"),
        (only_the_standard_library, "host", "import requests"),
        (only_process_starts_processes, "host", "import subprocess"),
        (only_process_starts_processes, "host", "from subprocess import run"),
        (only_process_starts_processes, "host", "import os\nos.system('true')"),
        (no_shell_is_given_built_text, "process", "run(text, shell=True)"),
        (only_main_catches_everything, "host", "try: f()\nexcept: pass"),
        (only_main_catches_everything, "host",
         "try: f()\nexcept (OSError, Exception): pass"),
        (only_main_catches_everything, "host",
         "try: f()\nexcept BaseException:\n pass"),
        (the_mind_is_pure, "plan", "import time"),
        (the_mind_is_pure, "plan", "datetime.now(UTC)"),
        (the_mind_is_pure, "plan", "os.stat(path)"),
        (the_mind_is_pure, "plan", "os.path.exists(path)"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_seen(rule, name, text):
    others = [
        Module(other, "from btrfs_backup_ng.process import run" * (other == "host"))
        for other in FLOOR_OF
        if other != name
    ]
    assert not list(rule([*others, *([Module(name, "")] if name in FLOOR_OF else [])]))
    assert len(list(rule([*others, Module(name, text)]))) == 1


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (only_main_catches_everything, "__main__", "try: f()\nexcept Exception: pass"),
        (only_main_catches_everything, "host",
         "try: f()\nexcept BaseException:\n g()\n raise"),
        (the_mind_is_pure, "plan", "os.path.join(os.fsdecode(a), b); os.path.isabs(a)"),
        (imports_point_down, "__main__", "from . import __version__, cli"),
    ],
)  # fmt: skip
def test_what_is_allowed_breaks_no_rule(rule, name, text):
    others = [Module(other, "") for other in FLOOR_OF if other != name]
    assert not list(rule([*others, Module(name, text)]))


def test_the_architecture_page_names_every_module_on_its_floor():
    page = (CHECKOUT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d \w+) \|([^|]*)\|", page, re.MULTILINE)
    named = {floor: set(re.findall(r"`([^`]+)`", modules)) for floor, modules in rows}
    assert named == {floor: set(words.split()) for floor, words in FLOORS.items()}
