"""The shell scripts inside btrfs-ssh-send, as files: for shellcheck and shfmt.

Usage: python -m tests.support.embedded DIRECTORY
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tests.support.program import CHECKOUT

PROGRAM = CHECKOUT / "btrfs-ssh-send"


def load() -> ModuleType:
    """Return btrfs-ssh-send as a module."""
    loader = importlib.machinery.SourceFileLoader("ssh_send", str(PROGRAM))
    spec = importlib.util.spec_from_loader("ssh_send", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules["ssh_send"] = module  # dataclasses look there
    loader.exec_module(module)
    return module


def scripts() -> dict[str, str]:
    """Return the scripts by name, as in ``wire/verbs``."""
    module = load()
    texts = {"common": module.COMMON, **module.VERBS}
    return {name: text.lstrip("\n") for name, text in texts.items()}


def write_scripts(directory: Path) -> None:
    """Write each script into a file of its own."""
    for name, text in scripts().items():
        (directory / f"{name}.sh").write_text(text)


if __name__ == "__main__":
    write_scripts(Path(sys.argv[1]))
