"""What the shells complete, with the completions of this checkout."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.program import CHECKOUT

COMPLETIONS = CHECKOUT / "docs/completions"

_BASH = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_CWORD=$(($# - 3)) COMP_WORDS=("${@:3}")
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
function=$(complete -p "$3")
function=${function#*-F }
${function% *}
printf '%s\\n' "${COMPREPLY[@]}"
"""
_ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "source $1"
zpty -r shell seen $'*\r\nready\r\n'
zpty -n -w shell "$2"$'\t'
zpty -r shell seen $'*\r\nended\r\n'
print -r -- "$seen"
zpty -d shell
"""
_ZSH_INSIDE = r"""
PROMPT=
stty columns 1000
fpath=($COMPLETIONS $fpath)
autoload -Uz compinit
compinit -u -C -d $PWD/.zcompdump
bindkey '^I' complete-word
compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
        builtin compadd "$@"
        return
    fi
    local -a hits
    builtin compadd -A hits "$@"
    builtin compadd "$@"
    local status_of=$?
    print -l -- "" "hit "${^hits}
    return $status_of
}
ended() { print -l -- "" ended; exit }
comppostfuncs=(ended)
print -l -- "" ready
"""


def complete_in_bash(line: str, env: Mapping[str, str], cwd: Path) -> set[str]:
    """Return the offers of bash at the end of a line."""
    words = re.findall(r"[:=]+|[^\s:=]+", line)
    if line[-1] in " :=":
        words.append("")
    file = str(COMPLETIONS / words[0])
    argv = ["bash", "--norc", "-c", _BASH, "bash", file, line, *words]
    return _offers(argv, env, cwd)


def complete_in_zsh(line: str, env: Mapping[str, str], cwd: Path) -> set[str]:
    """Return the offers of zsh at the end of a line."""
    inside = cwd / ".zsh-inside"
    inside.write_text(_ZSH_INSIDE)
    argv = ["zsh", "-f", "-c", _ZSH, "zsh", str(inside), line]
    env = {**env, "COMPLETIONS": str(COMPLETIONS)}
    found = _offers(argv, env, cwd)
    return {hit.removeprefix("hit ") for hit in found if hit.startswith("hit ")}


def complete_in_fish(line: str, env: Mapping[str, str], cwd: Path) -> set[str]:
    """Return the offers of fish at the end of a line that begin with its last word.

    fish 4 offers more: ``--num-backups`` for ``--back``.
    """
    file = COMPLETIONS / f"{line.split()[0]}.fish"
    script = f"source {file}; complete -C {shlex.quote(line)}"
    found = _offers(["fish", "--no-config", "-c", script], env, cwd)
    offers = {offer.partition("\t")[0] for offer in found}
    word = line.rpartition(" ")[2]
    return {re.sub("^--[^=]*=", "", each) for each in offers if each.startswith(word)}


SHELLS: dict[str, Callable[[str, Mapping[str, str], Path], set[str]]] = {
    "bash": complete_in_bash,
    "zsh": complete_in_zsh,
    "fish": complete_in_fish,
}


def _offers(argv: list[str], env: Mapping[str, str], cwd: Path) -> set[str]:
    done = subprocess.run(
        argv,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "LC_ALL": "C.UTF-8", **env},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == "", done.stderr
    return {line.strip("\r") for line in done.stdout.splitlines()} - {""}
