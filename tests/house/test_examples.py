"""The examples of README and docs run as they stand, and print what the pages show."""

from __future__ import annotations

import re

import pytest

from tests.support.examples import Step, printed_now, shape, steps
from tests.support.program import CHECKOUT

DOCS = CHECKOUT / "docs"
#: Pages with commands; those of docs/ssh.md need two machines (test_docs_ssh.py).
PAGES = sorted(
    page
    for page in (CHECKOUT / "README.md", *DOCS.glob("*.md"))
    if page.name != "ssh.md" and list(steps(page.read_text()))
)


@pytest.mark.btrfs
@pytest.mark.ssh
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_print_what_it_shows(page):
    now, shown = shape(printed_now(page)), shape(page.read_text())
    name = page.relative_to(CHECKOUT)
    assert now == shown, f"If it is right:  python -m tests.support.examples {name}"


def test_every_page_of_a_task_has_commands():
    tasks = {
        "backup",
        "configuration",
        "restore",
        "retention",
        "verify",
        "monitor",
        "btrbk",
    }
    assert {page.stem for page in PAGES} == tasks | {"README"}


PAGE = """\
    # /etc/file
    -N 3

<!-- run: touch /home/x -->
<!-- exits: 4 -->

    $ ls /home
    x  12 KiB

    $ date
    2026-11-23 10:15:00 +0100
    ...

```sh
true
false
```

    no command
"""


def test_the_commands_of_a_page_are_found_in_their_order():
    found = list(steps(PAGE))
    assert [step.command for step in found] == [
        "cat >/etc/file <<'END-OF-FILE'\n-N 3\nEND-OF-FILE",
        "touch /home/x",
        "ls /home",
        "date",
        "true\nfalse\n",
    ]
    assert [step.status for step in found] == [0, 0, 4, 0, 0]
    start, end = found[2].printed or (0, 0)
    assert PAGE[start:end] == "    x  12 KiB\n\n"
    assert found[0] == Step(found[0].command)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("made laptop-20261123-101500", "made laptop-20251224-235959_1", True),
        ("sent 41.2 GiB in 6:12", "sent 205 B in 0.1 s", True),
        ("x  2 h  complete", "x  12 days      complete", True),
        ("2 backups, 1 to delete", "14 backups, 0 to delete", True),
        ("<!-- varies -->\n    $ a\n    b\n    c\n", "    $ a\n    b\n", True),
        ("mount -o rw,ssd /dev/sda2 /home", "mount -o rw /dev/sda2 /home", True),
        ("mount -o subvolid=5 x", "mount -o subvol=/ x", False),
        ("mv home.before-1", "mv home.before-2", False),
        ("2 backups", "2 snapshots", False),
        ("sent in full", "sent", False),
    ],
)
def test_only_numbers_sizes_and_times_may_differ(one, other, same):
    assert (shape(one) == shape(other)) is same


def test_each_cell_of_the_comparison_has_its_source():
    table = (CHECKOUT / "README.md").read_text().split("## Compared")[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.split("\n## ")[0].splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]
    programs = rows[0][1:]
    assert len(rows) > 8
    page = (DOCS / "comparison.md").read_text()
    for name, *cells in rows[1:]:
        section = re.search(rf"^## {name}\n\n((?:.*\n)*?)(?=\n## |\Z)", page, re.M)
        assert section, name
        sources = re.findall(r"^- ([\w-]+): ((?:.*\n)*?)(?=- |\Z)", section[1], re.M)
        found = {program: text for program, text in sources}
        with_text = {program for program, cell in zip(programs, cells) if cell}
        assert with_text == set(found), name
        for program, text in found.items():
            assert re.search(r"\[[^]]+\]\([^)]+\)\.?\s*$", text), (name, program)
            links = re.findall(r"\]\(([^)]+)\)", text)
            inside = [link for link in links if not link.startswith("http")]
            assert all((DOCS / link).exists() for link in inside)
            assert inside or program != programs[0]


def test_every_link_inside_the_pages_leads_somewhere():
    for page in (CHECKOUT / "README.md", *DOCS.glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), link
