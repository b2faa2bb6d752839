"""The verbs find their way in one place: no other line resolves a path of a place.

The shell scripts of the verbs share ``common.sh``; its function ``go`` walks to a
directory one component at a time. What stands behind it uses names of the directory
that it stands in, ``./NAME``, and directories that it has open, ``/proc/$$/fd/N``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from btrfs_backup_ng.wire import grammar, protocol
from btrfs_backup_ng.wire.protocol import MAGIC
from tests.support import embedded
from tests.support.program import CHECKOUT

VERBS = CHECKOUT / "btrfs_backup_ng" / "wire" / "verbs"
#: Where the walk is.
WALK = "common"

#: Variables that may stand in front of a slash: script, variable -> why that is safe.
PATHS = {
    ("reap", "process"): "a directory of /proc",
    ("keep", "TMPDIR"): "the user's own",
    ("keep", "directory"): "made with a name of chance, for this user alone",
    ("elevate", "TMPDIR"): "the user's own",
    ("elevate", "directory"): "the same one",
    ("hello", "directory"): "begins a path that go is given",
    ("hello", "state"): "ends up in a path that go is given",
    ("hello", "containing"): "is only looked at",
    ("hello", "destination_above"): "begins a path that go is given",
    ("ready", "under"): "what was walked so far, in words",
    ("reach", "top"): "is only compared",
    ("send", "parent"): "all but its last component is a path that go is given",
    ("send", "snapshot"): "all but its last component is a path that go is given",
    ("place", "1"): "begins a path that go is given",
    ("writable", "from"): "below a directory that is open",
    ("writable", "target"): "only in a directory of ours",
    ("writable", "state"): "only in a directory of ours",
}
#: Functions that take a path: they walk it.
WALKERS = ("go", "ready", "make_folder", "act_as_owner")
#: Redirections to other things than /dev/null and descriptors: script, target.
TARGETS = {
    ("keep", '"$directory/ask"'): "a pipe that it made",
    ("keep", '"$directory/$asking"'): "a pipe that was made for it",
    ("elevate", '"$directory/ask"'): "a pipe",
    ("elevate", '"$pipe"'): "a pipe that it made",
}
#: Names in the directory that was entered, one after the other.
_EACH_NAME = re.compile(r"for (\w+) in (?:\"?\./\S* ?)+")
_DESCRIPTOR = r'&\d|&-|"?/proc/\$\$/fd/\d"?|/dev/null'


@dataclass(frozen=True)
class Script:
    """The text of a verb, without comments."""

    name: str
    text: str

    @property
    def lines(self) -> Iterator[tuple[int, str]]:
        """Return the lines that do something, with their numbers."""
        for number, line in enumerate(self.text.splitlines(), 1):
            code = _without_comment(line).strip()
            if code:
                yield number, code

    @property
    def lines_of_verb(self) -> Iterator[tuple[int, str]]:
        """Return those outside of functions, which have arguments of their own."""
        is_function = False
        raw = self.text.splitlines()
        for number, line in self.lines:
            is_function |= bool(re.match(r"\w+\(\) \{$", raw[number - 1]))
            if not is_function:
                yield number, line
            is_function &= raw[number - 1] != "}"

    @property
    def arguments(self) -> list[str]:
        """Return the words of the first comment: ``# put STATE NAME: ...``."""
        first = re.match(r"# [\w-]+((?: [A-Z.\[\]]+)*)", self.text)
        return first[1].split() if first else []

    def at(self, number: int, why: str) -> str:
        return f"{self.name}.sh:{number}: {why}"


def _without_comment(line: str) -> str:
    """Cut off a comment: a # in front of which there is nothing, or white space."""
    quoted = ""
    for at, character in enumerate(line):
        if character == quoted:
            quoted = ""
        elif not quoted and character in "'\"":
            quoted = character
        elif not quoted and character == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at]
    return line


def no_other_line_walks(script: Script) -> Iterator[str]:
    """``$x/y`` resolves all of ``$x`` again, with whatever is there by now."""
    if script.name == WALK:
        return
    for number, line in script.lines:
        for found in re.finditer(r"\$(?:(\w+)|\{(\w+)[^}]*\})\"?/", line):
            name = found[1] or found[2]
            if (script.name, name) not in PATHS:
                yield script.at(number, f"{found[0]} is a path that go did not walk")


def no_other_line_enters(script: Script) -> Iterator[str]:
    """To stand in another directory takes ``go``, or one that is open."""
    if script.name == WALK:
        return
    for number, line in script.lines:
        for found in re.finditer(r"(?:^|[\s;&|({])(?:cd|chdir|pushd) ([^;&|)]*)", line):
            if not re.match(r'(-P )?(-- )?"?/proc/\$\$/fd/\d"?( |$)', found[1]):
                if (script.name, line) not in ENTERED:
                    yield script.at(number, f"cd {found[1].strip()}, and not go")


#: Lines that enter a directory otherwise: script, line -> why that is safe.
ENTERED = {
    (
        "hello",
        'cd -P -- "$directory" 2>/dev/null || finish 0',
    ): "it is looked at as the user has named it",
    (
        "receive",
        'cd -P -- "$(pwd -P)" && cd -P -- "./$2" && [ . -ef /proc/self/fd/8 ] &&',
    ): "it goes on only in the directory that was open",
}


_WALKED = re.compile(rf"\b(?:{'|'.join(WALKERS)}) \"$")


def a_state_directory_is_walked_to(script: Script) -> Iterator[str]:
    """What is called STATE goes into nothing but a walker, under any name."""
    names = {str(i) for i, word in enumerate(script.arguments, 1) if word == "STATE"}
    for number, line in script.lines_of_verb:
        for name in sorted(names):
            uses = re.finditer(rf"\$(?:{name}\b|\{{{name}\b[^}}]*\}})", line)
            for use in uses:
                before = line[: use.start()]
                assigned = re.search(r"(?:^|[\s;])(\w+)=\"?$", before)
                is_name = before.endswith("./") and use[0].endswith("##*/}")
                # staged checks what walk has not.
                rest = line[use.end() :]
                is_staged = before.endswith('walk "') and rest.startswith('" && staged')
                if assigned:
                    names |= {assigned[1]}
                elif not (is_name or is_staged or _WALKED.search(before)):
                    yield script.at(number, f"{use[0]} is STATE, and does not go to go")
        if re.match(r"shift\b", line):
            names -= {name for name in names if name.isdigit()}


def nothing_is_removed_with_all_below(script: Script) -> Iterator[str]:
    """Only a name in the directory that was entered, be it a link, and not a path."""
    found = {loop[1] for _, line in script.lines if (loop := _EACH_NAME.search(line))}
    for number, line in script.lines:
        for call in re.finditer(r"\brm ((?:-\S+ )*)(.*?)(?:$|\|\||&&|;)", line):
            if not re.search(r"-\w*[rR]|--recursive", call[1]):
                continue
            own = re.fullmatch(r'"\$(\w+)"\s*', call[2])
            mine = own and (script.name, own[1]) in PATHS
            if not (own and (own[1] in found or mine)):
                yield script.at(number, f"rm {call[1]}{call[2].strip()}")


def nothing_is_written_through_a_name(script: Script) -> Iterator[str]:
    """``>`` goes to a descriptor, or behind ``set -C`` to a file that must be new."""
    may_make = False
    for number, line in script.lines:
        may_make = may_make or bool(re.search(r"\bset -C\b", line))
        unquoted = re.sub(r"'[^']*'", "''", line)
        for found in re.finditer(r"\d?(?:>>|<>|>)\|?\s*([^\s;|)]+)", unquoted):
            target = found[1]
            if re.fullmatch(_DESCRIPTOR, target):
                continue
            is_new = may_make and re.match(r'"?\./', target)
            if not (is_new or (script.name, target) in TARGETS):
                yield script.at(number, f"{found[0]} may be a link by now")
        if re.search(r"\bset \+C\b|\(set -C", line):
            may_make = False


_HEADER = re.compile(r"# ([\w-]+)((?: \[?[A-Z]+(?:\.\.\.)?\]?)*)[:;] \w")
_LIBRARY = re.compile(r"# (This text|Functions) ")
_STATUSES = re.compile(r"^([a-z_]+)=\d\d\b", re.M)
#: What goes to stdout, at the beginning of a line.
_PRINTS = re.compile(
    r"(printf|echo|tell|names_here|cat|head|\$as du|\$btrfs subvolume (show|list))\b"
)


def a_header_says_how_to_call_it(script: Script) -> Iterator[str]:
    """The first line names the verb, and each argument that it uses."""
    first = script.text.partition("\n")[0]
    if _LIBRARY.match(first):
        return
    header = _HEADER.match(first)
    if not header or header[1] != script.name:
        yield script.at(1, "the header does not name the verb")
        return
    count = 99 if "..." in header[2] else len(header[2].split())
    for number, line in script.lines_of_verb:
        if re.match(r"(shift|set)\b", line):
            return
        for argument in re.findall(r"\$\{?(\d)", line):
            if int(argument) > count:
                yield script.at(number, f"${argument} is not in the header")


def a_header_says_what_it_prints(script: Script) -> Iterator[str]:
    """``# Answer: ...``, or a first sentence about stdout."""
    if _LIBRARY.match(script.text) or re.search(r"^# Answer|stdout", script.text, re.M):
        return
    for number, line in script.lines:
        if _PRINTS.match(line) and not re.search("[>|]", line):
            yield script.at(number, "prints, and the header names no answer")


def a_header_says_how_it_may_end(script: Script) -> Iterator[str]:
    """``# Exit status: NAME ...`` for each one beside 0, 1 and not_ours."""
    if _LIBRARY.match(script.text):
        return
    code = "\n".join(line for _, line in script.lines)
    if re.search(r"^judge \$", code, re.M):
        code += "$codec_failed"
    if re.search(r"\bappear ", code):
        code += "$exists$astray"
    comments = "\n".join(re.findall("^#.*", script.text, re.M))
    said = comments.partition("# Exit status: ")[2]
    every = _STATUSES.findall((VERBS / "common.sh").read_text())
    for name in set(every) - {"not_ours"}:
        if f"${name}" in code and not re.search(rf"\b{name}\b", said):
            yield script.at(1, f"the header does not name the exit status {name}")
    if re.search(r"\bfinish (?!0|1\b)\d", code):
        yield script.at(1, "an exit status has no name")


def variables_are_words(script: Script) -> Iterator[str]:
    assigned = re.compile(
        r"\b(?:for|read -r|read) ([a-zA-Z])\b|(?:^|[\s;(])([a-zA-Z])="
    )
    for number, line in script.lines:
        for found in assigned.finditer(re.sub(r"'[^']*'", "''", line)):
            yield script.at(number, f"{found[1] or found[2]} is no word")


def a_line_has_one_statement(script: Script) -> Iterator[str]:
    """``;`` stands in front of then and do, and in a group of one statement."""
    for number, line in script.lines:
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "''", line)
        bare = re.sub(r"\{ [^;{}]*; \}", "{ }", bare)
        if re.search(r";(?!;| then$| do$)(?<!;;)", bare):
            yield script.at(number, "holds two statements")


RULES = [
    a_header_says_how_to_call_it,
    a_header_says_what_it_prints,
    a_header_says_how_it_may_end,
    variables_are_words,
    a_line_has_one_statement,
    no_other_line_walks,
    no_other_line_enters,
    a_state_directory_is_walked_to,
    nothing_is_removed_with_all_below,
    nothing_is_written_through_a_name,
]
Rule = Callable[[Script], Iterator[str]]


def read_scripts() -> list[Script]:
    return [Script(path.stem, path.read_text()) for path in sorted(VERBS.glob("*.sh"))]


#: Functions of btrfs-ssh-send that are not those of the same name in common.sh.
DIFFERENT = {
    "finish": "no sign of life has to be ended",
    "refuse": "its words also say that nothing was done, and as whom",
}
#: Rules for its verbs, which walk by themselves from the directory that the user named.
FORM = [
    rule for rule in RULES if rule.__name__.startswith(("a_header", "a_line", "var"))
]


@pytest.mark.parametrize("rule", FORM, ids=lambda rule: rule.__name__)
def test_the_verbs_of_btrfs_ssh_send_have_the_form_of_all_verbs(rule: Rule):
    for name, text in embedded.scripts().items():
        assert list(rule(Script(name, text))) == []


def test_a_function_that_both_programs_have_is_the_same():
    def functions(text: str) -> dict[str, str]:
        return dict(re.findall(r"^(\w+)\(\) \{\n(.*?)^\}$", text, re.M | re.S))

    ours = functions((VERBS / "common.sh").read_text())
    copies = functions(embedded.scripts()["common"])
    both = ours.keys() & copies.keys()
    assert both > {"step", "enter", "check_entered", "make", "adopt", *DIFFERENT}
    assert {name for name in both if ours[name] != copies[name]} == set(DIFFERENT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_verbs_keep_the_rule(rule: Rule):
    scripts = read_scripts()
    assert scripts, f"there are no scripts in {VERBS}"
    broken = [line for script in scripts for line in rule(script)]
    assert not broken, "\n".join(broken)


def test_no_exception_is_left_over():
    texts = {script.name: script.text for script in read_scripts()}
    for name, variable in PATHS:
        assert re.search(rf"\$\{{?{variable}\b", texts.get(name, "")), (name, variable)
    for name, target in TARGETS:
        assert target in texts.get(name, ""), (name, target)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (a_header_says_how_to_call_it, "# other NAME: x"),
        (a_header_says_how_to_call_it, '# verb NAME: x\ncat "$1" "./$2"'),
        (a_header_says_how_to_call_it, "# verb name"),
        (a_header_says_what_it_prints, "# verb NAME: x\nprintf 1\nfinish 0"),
        (a_header_says_how_it_may_end, '# verb: x\n# Answer: busy\nfinish "$busy"'),
        (a_header_says_how_it_may_end, "# verb: x\n[ -e . ] || finish 77"),
        (a_header_says_how_it_may_end, "# verb: x\njudge $statuses"),
        (variables_are_words, "x=1"),
        (variables_are_words, "for x; do"),
        (variables_are_words, "read -r x"),
        (a_line_has_one_statement, "cd .; ls"),
        (a_line_has_one_statement, "{ cd .; ls; }"),
        (a_line_has_one_statement, "if true; then ls; fi"),
        (no_other_line_walks, 'btrfs subvolume delete -- "$1/incoming/$2"'),
        (no_other_line_walks, 'cat "$state/holder"'),
        (no_other_line_walks, "cat ${state}/holder"),
        (no_other_line_walks, 'cat "${1%/}"/holder'),
        (no_other_line_enters, 'cd -P -- "$1"'),
        (no_other_line_enters, "go . && cd incoming"),
        (no_other_line_enters, "(cd .. && ls)"),
        (a_state_directory_is_walked_to, '# verb STATE: x\ncat "$1"'),
        (a_state_directory_is_walked_to, '# verb A STATE: x\nx=$2\nflock -n "$x"'),
        (a_state_directory_is_walked_to, '# verb STATE: x\nf() {\n}\ncat "$1"'),
        (a_state_directory_is_walked_to, '# verb STATE: x\nexec 9<"$1"'),
        (a_state_directory_is_walked_to, '# verb STATE: x\nwalk "$1" && exec 5<.'),
        (nothing_is_removed_with_all_below, 'rm -rf -- "$1"/*'),
        (nothing_is_removed_with_all_below, 'rm -f -R "$d"'),
        (nothing_is_removed_with_all_below, "try_as_root rm -r ./incoming || finish 1"),
        (nothing_is_written_through_a_name, "echo x >./holder"),
        (nothing_is_written_through_a_name, 'echo x >>"$1"'),
        (nothing_is_written_through_a_name, "echo x 2>/dev/null >$f"),
        (nothing_is_written_through_a_name, "set -C\nset +C\necho x >./holder"),
        (nothing_is_written_through_a_name, "exec 6<>./holder"),
    ],
)
def test_a_broken_rule_is_seen(rule: Rule, text: str):
    assert len(list(rule(Script("verb", text)))) == 1


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            a_header_says_how_to_call_it,
            '# verb NAME: x\ncat "$1"\nset -- a b\ncat "$2"',
        ),
        (a_header_says_how_to_call_it, '# verb NAME...: x\ncat "$1" "$2"'),
        (a_header_says_what_it_prints, "# verb: x\n# Answer: 1.\nprintf 1"),
        (a_header_says_what_it_prints, "# verb: x\nprintf 1 >&4"),
        (a_header_says_how_it_may_end, '# verb: x\n# Exit status: busy.\nx "$busy"'),
        (variables_are_words, "TZ=UTC0\nsed 's/a=b/'\nread -r line"),
        (a_line_has_one_statement, "for x; do\nif { a && b; }; then\n*) ;;\nx ';'"),
        (no_other_line_walks, 'cat "/proc/$$/fd/9/$name" ./holder # $1/x'),
        (no_other_line_enters, 'cd "/proc/$$/fd/6" && look_around'),
        (a_state_directory_is_walked_to, '# verb STATE: x\ngo "$1"\nshift\ncat "./$1"'),
        (
            a_state_directory_is_walked_to,
            '# verb STATE: x\nready "$1" && go "${1%//*}"',
        ),
        (a_state_directory_is_walked_to, '# verb A STATE: x\ns=$2\n(go "$s")'),
        (a_state_directory_is_walked_to, '# verb STATE: x\nis_taken "./${1##*/}"'),
        (a_state_directory_is_walked_to, '# verb STATE: x\nf() {\n  cat "$1"\n}'),
        (nothing_is_removed_with_all_below, 'for f in ./* ./.*; do\nrm -rf -- "$f"'),
        (nothing_is_removed_with_all_below, "rm -f -- ./holder"),
        (nothing_is_written_through_a_name, "echo x >&2 2>/dev/null"),
        (nothing_is_written_through_a_name, 'echo x >"/proc/$$/fd/6"'),
        (nothing_is_written_through_a_name, "set -C\n: >./holder\nset +C"),
        (nothing_is_written_through_a_name, "sed 's/>x/y/'"),
    ],
)
def test_what_is_allowed_breaks_no_rule(rule: Rule, text: str):
    assert list(rule(Script("verb", text))) == []


def test_no_module_holds_a_shell_script():
    modules = (CHECKOUT / "btrfs_backup_ng").rglob("*.py")
    assert [path for path in modules if "/bin/sh" in path.read_text()] == []


def test_what_a_verb_reports_is_worded_in_one_place_at_each_end():
    package = CHECKOUT / "btrfs_backup_ng"
    files = [*package.rglob("*.py"), *package.rglob("*.sh")]
    having = [path for path in files if MAGIC in path.read_text()]
    assert sorted(path.name for path in having) == ["common.sh", "protocol.py"]


def test_each_line_that_a_verb_reports_is_in_the_table_of_the_protocol():
    texts = "\n".join(script.text for script in read_scripts())
    reported = set(re.findall(r"^\s*notify (\w+)$", texts, re.M))
    assert reported == {"working", "received"}
    assert reported < set(re.findall(r"``bbng2 (\w+)", protocol.__doc__ or ""))


def test_the_exit_statuses_are_the_same_at_both_ends():
    common = (VERBS / "common.sh").read_text()
    there = dict(re.findall(r"^([a-z_]+)=(\d\d)\b", common, re.M))
    here = {
        name.lower(): str(value)
        for name, value in vars(grammar).items()
        if name.isupper() and isinstance(value, int)
    }
    assert there == here
