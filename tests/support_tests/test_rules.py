"""Skips are loud, and failures where they must not happen."""

import subprocess
import sys

import pytest

from tests.support import program

SKIPS = """
import pytest

def test_passes(): pass

@pytest.mark.skip(reason="no moon")
def test_skips(): pass

@pytest.mark.xfail(strict=True)
def test_fails_as_it_should(): assert False
"""

NEEDS_ROOT = """
import pytest

@pytest.mark.root
def test_marked(): assert False

def test_fixture(sshd): assert False

def test_passes(): pass
"""

FORGETFUL = "import pytest; pytest.importorskip('no_such_module')"

NOT_UTF_8 = r"""
def test_fails(): assert "a \udcff" == "b"

def test_passes(): pass
"""


def run_pytest(tmp_path, module, *argv, before=(), **env):
    (tmp_path / "test_it.py").write_text(module)
    return subprocess.run(
        [*before, sys.executable, "-m", "pytest", "-p", "tests.conftest"]
        + ["-p", "no:cacheprovider", f"-c{program.CHECKOUT}/pyproject.toml"]
        + [f"--rootdir={tmp_path}", f"--basetemp={tmp_path}/base", *argv, "."],
        env=program.environment({"CI": None, "BBNG_NO_SKIP": None, **env}),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
    )


@pytest.mark.parametrize(
    ("env", "argv", "status", "said"),
    [
        ({}, [], 0, "1 passed, 1 skipped, 1 xfailed"),
        ({"CI": "false"}, [], 0, "1 passed, 1 skipped, 1 xfailed"),
        ({"CI": "true"}, [], 1, "1 passed, 1 xfailed, 1 error"),
        ({"BBNG_NO_SKIP": "1"}, ["-n2"], 1, "1 passed, 1 xfailed, 1 error"),
    ],
)
def test_a_skip_is_a_failure_in_ci(tmp_path, env, argv, status, said):
    done = run_pytest(tmp_path, SKIPS, *argv, **env)
    assert (done.returncode, said in done.stdout) == (status, True), done.stdout
    assert "no moon" in done.stdout


@pytest.mark.parametrize(
    ("env", "status"),
    [
        ({}, pytest.ExitCode.NO_TESTS_COLLECTED),
        ({"CI": "1"}, pytest.ExitCode.INTERRUPTED),
    ],
)
def test_a_module_that_skips_itself_is_a_failure_in_ci(tmp_path, env, status):
    done = run_pytest(tmp_path, FORGETFUL, **env)
    assert done.returncode == status and "no_such_module" in done.stdout, done.stdout


@pytest.mark.root
def test_what_needs_root_is_skipped_loudly_without_it(tmp_path):
    # In its own user namespace, a process of root's takes itself for user 1000.
    before = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    done = run_pytest(tmp_path, NEEDS_ROOT, before=before)
    assert done.returncode == 0 and "1 passed, 2 skipped" in done.stdout, done.stdout
    assert "2 TESTS DID NOT RUN: they need root" in done.stdout


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["-n2"],
    ],
)
def test_a_failure_about_a_name_that_is_not_utf_8_can_be_told(tmp_path, argv):
    done = run_pytest(tmp_path, NOT_UTF_8, *argv)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "INTERNALERROR" not in done.stdout
