"""Words before they are options: files, tasks and ``-v LEVEL``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.argv import expand, join_levels, naming_line, split_tasks

WORDS = st.lists(st.text().filter(lambda word: not word.startswith("@")))


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"@{path}"


@given(WORDS)
def test_words_that_name_no_file_stay_as_they_are(words):
    assert expand(words) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("\n\n  \n", []),
        ("# only a comment\n", []),
        ("  # indented\n\t#tab\n", []),
        ("/home", ["/home"]),
        ("/home\n", ["/home"]),
        ("/home\r\n/mnt\r\n", ["/home", "/mnt"]),
        ("/my files/a b\n", ["/my files/a b"]),
        ("  /home  \n", ["/home"]),
        ("-N 5\n", ["-N", "5"]),
        ("-N\t5\n", ["-N", "5"]),
        ("-N   5  \n", ["-N", "5"]),
        ("-N5\n", ["-N5"]),
        ("--num-snapshots=5\n", ["--num-snapshots=5"]),
        ("--snapshot-prefix my pc-\n", ["--snapshot-prefix", "my pc-"]),
        ("-p a # b\n", ["-p", "a # b"]),
        ("/a#b\n", ["/a#b"]),
        ("--ssh-opt Port=22\n--ssh-opt User=x", ["--ssh-opt", "Port=22"] * 1
         + ["--ssh-opt", "User=x"]),
        ("-q\n", ["-q"]),
        ("'/home'\n", ["'/home'"]),
        ("/a\n::\n/b\n", ["/a", "::", "/b"]),
        ("shell://cat > /x/$1\n", ["shell://cat > /x/$1"]),
        (b"/h\xff\n", ["/h\udcff"]),
        ("/größe\n", ["/größe"]),
        ("/a\x0bb\x0c\n", ["/a\x0bb\x0c"]),
        ("/a\u2028b\n", ["/a\u2028b"]),
    ],
)  # fmt: skip
def test_a_file_holds_one_thing_a_line(tmp_path, text, words):
    at = written(tmp_path / "args", text)
    assert expand(["x", at, "y"]) == ["x", *words, "y"]


def test_files_nest_relative_to_the_file_they_are_named_in(tmp_path):
    (tmp_path / "sub dir").mkdir()
    top = written(tmp_path / "top", "@sub dir/one\n/c\n")
    written(tmp_path / "sub dir" / "one", "/a\n@two\n")
    written(tmp_path / "sub dir" / "two", "/b\n@../three\n")
    written(tmp_path / "three", "-N 3\n")
    assert expand([top]) == ["/a", "/b", "-N", "3", "/c"]


def test_a_file_may_be_named_twice_but_not_by_itself(tmp_path):
    one = written(tmp_path / "one", "/a\n")
    twice = written(tmp_path / "twice", "@one\n@one\n")
    assert expand([one, twice, one]) == ["/a"] * 4
    loop = written(tmp_path / "loop", "/a\n@other\n")
    written(tmp_path / "other", "@./loop\n")
    (tmp_path / "link").symlink_to("loop")
    for word in (loop, f"@{tmp_path}/link"):
        with pytest.raises(UsageError, match="includes itself"):
            expand([word])


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    for path, reason in (("none", "No such file"), (".", "directory")):
        with pytest.raises(UsageError, match=reason) as caught:
            expand([f"@{tmp_path}/{path}"])
        assert path in caught.value.message
    with pytest.raises(UsageError):
        expand(["@nul\0"])


def test_who_names_a_subvolume_like_a_file_is_told_how(tmp_path, monkeypatch):
    """``@`` and ``@home`` are what distributions call their subvolumes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "@home").mkdir()
    with pytest.raises(UsageError) as caught:
        expand(["@home", "/mnt"])
    assert "./@home" in caught.value.hint
    assert expand(["./@home", "@"]) == ["./@home", "@"]


def test_a_word_that_only_holds_an_at_sign_is_no_file():
    words = ["ssh://me@nas/x", "a@b", "--opt=@x", "@"]
    assert expand(words) == words


@pytest.mark.parametrize(
    "words",
    [["-p", "@h."], ["-Sp", "@h."], ["--prefix", "@h."], ["-p@h."], ["-p", "-p"]],
)
def test_a_value_names_no_file(tmp_path, words):
    valued = {"-p", "--prefix"}
    assert expand(words, valued) == words
    at = written(tmp_path / "f", " ".join(words) + "\n/a\n")
    assert expand(["/b", at], valued) == ["/b", *words, "/a"]


def test_behind_a_flag_or_a_value_stands_a_file(tmp_path):
    at = written(tmp_path / "f", "/a\n")
    for words in (["-S"], ["-pS"], ["-p", "-S"], ["-p", "x"], ["--prefix=x"]):
        assert expand([*words, at], {"-p", "--prefix"}) == [*words, "/a"]


def _reading(words):
    """Refuse a word that is no letter, letters out of order, and words without an a."""
    for word in words:
        if not word.isalpha():
            raise UsageError(f"bad: {word}")
    if sorted(words) != list(words):
        raise UsageError("out of order")
    if "a" not in words:
        raise UsageError("no a")
    return "".join(words)


@pytest.mark.parametrize(
    ("text", "before", "message"),
    [
        ("# x\na\n\n1\nb\n", [], "line 4 of FILE: bad: 1"),
        ("1\n2\na\n", [], "line 1 of FILE: bad: 1"),
        ("a\nc\nb\n", [], "line 3 of FILE: out of order"),
        ("a\nb\n", ["1"], "bad: 1"),
        ("b\nc\n", [], "no a"),
    ],
)
def test_an_error_names_the_line_that_it_is_in(tmp_path, text, before, message):
    path = tmp_path / "f"
    words = expand([*before, written(path, text)])
    with pytest.raises(UsageError) as caught:
        naming_line(words, _reading)
    assert caught.value.message == message.replace("FILE", str(path))


def test_a_file_that_is_missing_is_named_with_the_line_that_names_it(tmp_path):
    at = written(tmp_path / "f", "/a\n@none\n")
    with pytest.raises(UsageError, match=f"line 2 of {tmp_path}/f: cannot read @none"):
        expand([at])


def test_behind_two_dashes_nothing_is_expanded(tmp_path):
    at = written(tmp_path / "f", "/a\n")
    assert expand([at, "--", at]) == ["/a", "--", at]


@given(st.lists(st.lists(st.text().filter(lambda w: w != "::"), min_size=1)))
def test_tasks_are_cut_exactly_at_what_stands_alone(tasks):
    words = [word for task in tasks for word in ("::", *task)][1:]
    assert split_tasks(words) == (tasks or [[]])


def test_two_colons_inside_a_word_separate_nothing():
    words = ["/a::b", "::/c", "d::", " :: ", ":::", "::\n", ":"]
    assert split_tasks(words) == [words]


@pytest.mark.parametrize(
    "words",
    [
        ["::"],
        ["a", "::"],
        ["::", "a"],
        ["a", "::", "::", "b"],
    ],
)
def test_an_empty_task_is_an_error(words):
    with pytest.raises(UsageError):
        split_tasks(words)


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["-v", "debug", "/a"], ["--verbosity=debug", "/a"]),
        (["--verbose", "info"], ["--verbosity=info"]),
        (["/a", "-v", "error"], ["/a", "--verbosity=error"]),
        (["-v", "warning", "-v", "info"], ["--verbosity=warning", "--verbosity=info"]),
        (["-v", "/a"], ["-v", "/a"]),
        (["-v", "-v", "/a"], ["-v", "-v", "/a"]),
        (["-vv", "/a"], ["-vv", "/a"]),
        (["-v", "./debug"], ["-v", "./debug"]),
        (["-v", "DEBUG"], ["-v", "DEBUG"]),
        (["debug", "-v"], ["debug", "-v"]),
        (["-v"], ["-v"]),
        ([], []),
        (["--", "-v", "debug"], ["--", "-v", "debug"]),
        (["-v", "--", "debug"], ["-v", "--", "debug"]),
        (["-v", "debug", "debug"], ["--verbosity=debug", "debug"]),
    ],
)
def test_a_level_behind_v_belongs_to_it_and_anything_else_does_not(words, joined):
    assert join_levels(words) == joined


@given(st.lists(st.text()))
def test_joining_levels_changes_no_other_word(words):
    assert join_levels(words) == words or "-v" in words or "--verbose" in words
