"""The rules of a test run (root, skips, leftovers) and the fixtures."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest

from tests.support import accounts, filesystems, ours, program
from tests.support import sshd as ssh_servers
from tests.support.rooms import room  # noqa: F401

# No deadline: the machine may be busy with the filesystems of another worker.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")

_MARKERS = {
    "btrfs": ("btrfs", "disks", "two_filesystems", "power_cut"),
    "ssh": ("sshd", "session_sshd", "new_sshd", "account"),
}
_ROOT_ONLY = "needs root"


def skips_are_failures() -> bool:
    """Tell whether a test that cannot run here must be noticed: in CI, or on demand."""
    return any(
        os.environ.get(name, "").lower() not in ("", "0", "false", "no")
        for name in ("CI", "BBNG_NO_SKIP")
    )


def pytest_unconfigure() -> None:
    """Forget what the programs of this process have remembered."""
    shutil.rmtree(program.STATE_DIRECTORY, ignore_errors=True)


def pytest_configure() -> None:
    """Let signals end the tests' programs, even if nohup or a shell's & began this."""
    for ignored in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Clear away what test runs that were killed have left on this machine."""
    if os.geteuid() == 0 and not hasattr(session.config, "workerinput"):
        for sweep in (filesystems.sweep, accounts.sweep, ours.sweep):
            for leftover in sweep():
                print(f"removed what a killed test run left: {leftover}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use, so that nobody has to remember."""
    for item in items:
        for marker, fixtures in _MARKERS.items():
            if set(fixtures) & set(getattr(item, "fixturenames", ())):
                item.add_marker(marker)


def pytest_collection_finish() -> None:
    """Never search thousands of tests for garbage: they stay until the end."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what takes root for anybody else."""
    if os.geteuid() != 0:
        for marker in ("root", *_MARKERS):
            if item.get_closest_marker(marker):
                pytest.skip(_ROOT_ONLY)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> (
    Generator[None, pytest.TestReport, pytest.TestReport]
):
    """Turn a skip into a failure where that is the rule."""
    report = yield
    if skips_are_failures() and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and here that is a failure: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> (
    Generator[None, pytest.CollectReport, pytest.CollectReport]
):
    """Do the same for a module that skips itself."""
    report = yield
    if skips_are_failures() and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and here that is a failure: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> (
    Generator[None, dict[str, Any] | None, dict[str, Any] | None]
):
    """Let a worker tell of names that are not UTF-8: pytest-xdist would break off."""
    told = yield
    return _encodable(told) if told else None


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(_encodable, value))
    return value


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly when the tests that matter most have not run."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", ())
        if _ROOT_ONLY in _reason(report)
    ]
    if skipped:
        text = f"{len(skipped)} TESTS DID NOT RUN: they need root (sudo ./check)"
        terminalreporter.section(text, sep="!", red=True)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    what = report.longrepr
    return what[2] if isinstance(what, tuple) else str(what)


class MakesFilesystems(Protocol):
    """Make and mount one more btrfs; see :func:`filesystems.btrfs_filesystem`."""

    def __call__(
        self,
        *,
        size: str = "1G",
        mkfs_options: tuple[str, ...] = (),
        mount_options: tuple[str, ...] = (),
    ) -> filesystems.Filesystem: ...


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[MakesFilesystems]:
    """Make btrfs filesystems that are gone after the test."""
    with contextlib.ExitStack() as stack:

        def make(
            *,
            size: str = "1G",
            mkfs_options: tuple[str, ...] = (),
            mount_options: tuple[str, ...] = (),
        ) -> filesystems.Filesystem:
            return stack.enter_context(
                filesystems.btrfs_filesystem(
                    tmp_path,
                    size=size,
                    mkfs_options=mkfs_options,
                    mount_options=mount_options,
                )
            )

        yield make


@pytest.fixture
def two_filesystems(
    btrfs: MakesFilesystems,
) -> tuple[filesystems.Filesystem, filesystems.Filesystem]:
    """Return two filesystems: one to back up from, one to back up to."""
    return btrfs(), btrfs()


@contextlib.contextmanager
def public_disks() -> Iterator[tuple[filesystems.Filesystem, filesystems.Filesystem]]:
    """Make two filesystems that every user may look at."""
    directory = ours.public_directory()
    try:
        with (
            filesystems.btrfs_filesystem(directory, size="4G") as one,
            filesystems.btrfs_filesystem(directory, size="4G") as other,
        ):
            yield one, other
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Return a directory that every user of the machine can reach."""
    directory = ours.public_directory()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def disks() -> Iterator[tuple[filesystems.Filesystem, filesystems.Filesystem]]:
    """Make two filesystems that the tests of a module share, each in its own corner.

    Not those of a worker: no test clears its corner away, and disks may be in memory.
    """
    with public_disks() as made:
        yield made


@pytest.fixture
def power_cut(tmp_path: Path) -> Iterator[filesystems.PowerCut]:
    """Return a filesystem whose power can be cut."""
    with filesystems.power_cut(tmp_path) as power:
        yield power


@pytest.fixture(scope="session")
def session_sshd() -> Iterator[ssh_servers.Sshd]:
    """Run the ssh server that the tests of one worker share."""
    with ssh_servers.running_sshd() as server:
        yield server


@pytest.fixture
def sshd(session_sshd: ssh_servers.Sshd) -> ssh_servers.Sshd:
    """Return a running ssh server whose counts begin at nothing.

    Who stops it, changes its key or configures it takes one of ``new_sshd``.
    """
    assert session_sshd.is_running(), "another test has stopped the common sshd"
    session_sshd.mark()
    return session_sshd


@pytest.fixture
def new_sshd() -> Iterator[Callable[..., ssh_servers.Sshd]]:
    """Run ssh servers of one's own; see :func:`sshd.running_sshd`."""
    with contextlib.ExitStack() as stack:

        def run(
            *,
            ipv6: bool = False,
            hosts: tuple[str, ...] = (),
            config: tuple[str, ...] = (),
        ) -> ssh_servers.Sshd:
            return stack.enter_context(
                ssh_servers.running_sshd(ipv6=ipv6, hosts=hosts, config=config)
            )

        yield run


@pytest.fixture
def account() -> Iterator[Callable[..., accounts.Account]]:
    """Make user accounts; see :func:`accounts.account`."""
    with contextlib.ExitStack() as stack:

        def make(
            *,
            shell: str = "/bin/sh",
            sudoers: str | None = None,
            doas: str | None = None,
            password: str | None = None,
            superuser: bool = False,
        ) -> accounts.Account:
            return stack.enter_context(
                accounts.account(
                    shell=shell,
                    sudoers=sudoers,
                    doas=doas,
                    password=password,
                    superuser=superuser,
                )
            )

        yield make
