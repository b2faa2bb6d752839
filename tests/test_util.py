"""What every floor uses: sizes, spans, safe text, and files that are never torn."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import (
    GIB,
    KIB,
    MIB,
    BackupError,
    Interrupted,
    UsageError,
    attempt,
    format_size,
    format_span,
    parse_size,
    visible,
    write_atomically,
)
from tests.support.program import environment

#: ``Bidi_Control`` of the Unicode character database.
STEERS_DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e" + "".join(
    map(chr, range(0x2066, 0x206A))
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 * MIB, "10.0 MiB"),
        (int(41.2 * GIB), "41.2 GiB"),
        (1024 * GIB, "1.0 TiB"),
        (1024**5, "1.0 PiB"),
        (2000 * 1024**5, "2000.0 PiB"),
    ],
)
def test_sizes_are_written_for_people(size, text):
    assert format_size(size) == text


@given(st.integers(0, 1024**5 - 1) | st.floats(0, 1024.0**5 * 0.999))
def test_no_size_says_1024_of_a_unit_that_has_a_bigger_one(size):
    number, unit = format_size(size).split()
    assert float(number) < 1024 or unit == "PiB"


@given(st.integers(1, 1024**5))
def test_a_written_size_is_within_a_twentieth_unit(size):
    number, unit = format_size(size).split()
    factor = KIB ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)
    assert abs(float(number) * factor - size) <= factor * 0.0501


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("10M", 10 * MIB),
        ("10MiB", 10 * MIB),
        ("10 MB", 10 * MIB),
        ("1.5G", GIB * 3 // 2),
        ("2k", 2 * KIB),
        ("1T", 1024 * GIB),
        (" 7B ", 7),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "0", "0M", "-1", "M", "1,5G", "1e9", "10X", "1.M", ".5M", "0.0001", "inf"]
    + ["nan", "10M10", "1 0M", "1_0", "+5", "10Mb/s"],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text):
    try:
        assert parse_size(text) > 0
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.9, "9.9 s"),
        (10, "10 s"),
        (59, "59 s"),
        (60, "1:00"),
        (125, "2:05"),
        (3599.9, "59:59"),
        (3600, "1:00:00"),
        (3725, "1:02:05"),
        (360000, "100:00:00"),
    ],
)
def test_spans_are_written_for_people(seconds, text):
    assert format_span(seconds) == text


@given(st.floats(0, 70))
def test_no_span_says_sixty_seconds(seconds):
    assert format_span(seconds) not in ("60 s", "10.0 s")


def test_every_code_point_that_steers_a_terminal_is_escaped():
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        shown = visible(letter)
        if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
            assert shown != letter and shown.isascii() and shown.isprintable(), code
        elif letter in STEERS_DIRECTION:
            assert shown.isascii(), hex(code)
        else:
            assert shown == letter, hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("größe 雪 🐄", "größe 雪 🐄"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        (os.fsdecode(b"\xff\x80"), "\\xff\\x80"),
        ("\u2028\u202e", "\\u2028\\u202e"),
        ("\ud800", "\\ud800"),
    ],
)
def test_text_from_outside_is_made_visible(text, shown):
    assert visible(text) == shown


@given(st.text() | st.binary().map(os.fsdecode))
def test_what_is_visible_can_be_printed_on_one_line_and_stays_as_it_is(text):
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    assert visible(shown) == shown


def test_an_attempt_gives_the_error_but_never_swallows_a_signal_or_a_bug():
    error = UsageError("no")

    def fail(what):
        raise what

    assert attempt(lambda: 5) == 5
    assert attempt(lambda: fail(error)) is error
    for what in (Interrupted(signal.SIGTERM), KeyError("bug")):
        with pytest.raises(type(what)):
            attempt(functools.partial(fail, what))
    assert isinstance(error, BackupError) and error.exit_status == 2
    assert Interrupted(signal.SIGINT).exit_status == 130
    assert "SIGTERM" in Interrupted(signal.SIGTERM).message


@pytest.mark.parametrize("old", [None, b"", b"old" * 999])
@pytest.mark.parametrize("new", [b"", b"new", b"x" * MIB])
def test_a_file_is_replaced_whole(tmp_path, old, new):
    path = tmp_path / "state file"
    if old is not None:
        path.write_bytes(old)
    write_atomically(str(path), new)
    assert path.read_bytes() == new
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_relative_path_without_directory_is_written_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_atomically("x", b"1")
    assert Path("x").read_bytes() == b"1"


def test_a_write_that_fails_half_way_leaves_the_old_content(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    script = """
        import resource, signal, sys
        from btrfs_backup_ng.__util__ import write_atomically
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            write_atomically(sys.argv[1], b"new" * 4000)
        except OSError as error:
            print(error.strerror)
    """
    done = python(script, str(path))
    assert done.stdout == "File too large\n", done.stderr
    assert path.read_bytes() == b"old"
    write_atomically(str(path), b"next")
    assert path.read_bytes() == b"next"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_directory_that_is_not_there_is_an_error_and_nothing_is_made(tmp_path):
    with pytest.raises(OSError):
        write_atomically(str(tmp_path / "no" / "f"), b"x")
    assert not list(tmp_path.iterdir())


def test_a_link_laid_in_the_way_is_not_followed(tmp_path):
    """Whoever may write the directory must not make root write elsewhere."""
    victim, path = tmp_path / "victim", tmp_path / "f"
    victim.write_bytes(b"precious")
    (tmp_path / "f.new").symlink_to(victim)
    path.write_bytes(b"old")
    try:
        write_atomically(str(path), b"new")
    except OSError:
        pass
    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() in (b"old", b"new") and not path.is_symlink()
    (tmp_path / "f.new").unlink(missing_ok=True)
    path.unlink()
    path.symlink_to(victim)
    write_atomically(str(path), b"new")
    assert victim.read_bytes() == b"precious" and path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("write:signal=SIGKILL:when=1", b"old"),
        ("fsync:signal=SIGKILL:when=1", b"old"),
        ("fsync:error=EIO:when=1", b"old"),
        ("rename:error=EIO:when=1", b"old"),
        ("fsync:signal=SIGKILL:when=2", b"new" * 10000),
    ],
)
def test_a_kill_or_an_error_at_any_call_leaves_old_or_new(tmp_path, call, after):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    script = """
        import os, sys
        from btrfs_backup_ng.__util__ import write_atomically
        write_atomically(sys.argv[1], b"new" * 10000)
    """
    name = call.split(":")[0]
    watch = ["strace", "-qq", "-o", os.devnull, "-e", f"trace={name}"]
    done = python(script, str(path), before=[*watch, "-e", f"inject={call}"])
    assert done.returncode != 0, done.stderr
    assert path.read_bytes() == after


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path):
    script = """
        import sys
        from btrfs_backup_ng.__util__ import write_atomically
        write_atomically(sys.argv[1], b"new")
    """
    log = tmp_path / "log"
    watch = ["strace", "-qq", "-y", "-o", str(log), "-e", "trace=fsync,rename"]
    assert python(script, str(tmp_path / "f"), before=watch).returncode == 0
    calls = [line for line in log.read_text().splitlines() if str(tmp_path) in line]
    assert [call.split("(")[0] for call in calls] == ["fsync", "rename", "fsync"]
    assert f"<{tmp_path}/f.new>" in calls[0] and f"<{tmp_path}>" in calls[2]


def python(script, *argv, before=()):
    return subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(script), *argv],
        env=environment(),
        capture_output=True,
        text=True,
    )
