"""Write the man pages and completions, which are committed.

Usage: python -m docs.generate
"""

from pathlib import Path

from docs.generate.commands import CHECKOUT, commands, sender
from docs.generate.completion import bash, fish, zsh
from docs.generate.man import man_page


def files() -> dict[Path, str]:
    """Return the text of each file."""
    program, send = commands(), [sender()]
    found = {
        CHECKOUT / f"docs/man/{command.name}.1": man_page(command)
        for command in [*program, *send]
    }
    for each in (program, send):
        name = each[0].name
        completions = CHECKOUT / "docs/completions"
        found[completions / name] = bash(each)
        found[completions / f"_{name}"] = zsh(each)
        found[completions / f"{name}.fish"] = fish(each)
    return found


def write(texts: dict[Path, str]) -> None:
    """Write the files, and remove those of commands that are gone."""
    for folder in {path.parent for path in texts}:
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path not in texts:
                path.unlink()
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(files())
