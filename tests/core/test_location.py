"""The words for a place, and what they mean."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.core.location import Location, Scheme, parse_location

LETTERS = st.characters(exclude_characters="\0") | st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]
)
PATHS = st.lists(
    st.text(LETTERS.filter(lambda c: c != "/"), min_size=1).filter(lambda p: p != "."),
    max_size=5,
).map(lambda parts: "/" + "/".join(parts))
HOSTS = st.sampled_from(
    ["nas", "nas.example.org", "10.0.0.1", "::1", "fe80::1%eth0", "2001:db8::", "a_b-c"]
)
USERS = st.sampled_from(["", "root", "backup", "first.last", "me@corp.example", "a\\b"])
PORTS = st.none() | st.integers(1, 65535)


def parse(text: str, cwd: str = "/work dir") -> Location:
    return parse_location(text, working_directory=cwd)


def refused(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(text)
    return caught.value


@given(PATHS)
def test_a_local_place_survives_being_written(path):
    place = Location(Scheme.LOCAL, path)
    assert parse(str(place)) == place


@given(PATHS, HOSTS, USERS, PORTS)
def test_an_ssh_place_survives_being_written(path, host, user, port):
    place = Location(Scheme.SSH, path, host, user, port)
    assert parse(str(place)) == place


@given(st.text(LETTERS, min_size=1).filter(str.strip))
def test_a_command_survives_being_written(command):
    place = Location(Scheme.SHELL, command)
    assert parse(str(place)) == place
    assert parse(f"shell://{command}").path == command


@given(st.text(LETTERS))
def test_any_word_is_a_place_or_a_usage_error(text):
    try:
        place = parse(text)
    except UsageError as error:
        assert error.message and error.exit_status == 2
    else:
        assert place.scheme is Scheme.SHELL or place.path.startswith("/")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/home", "/home"),
        ("/home/", "/home"),
        ("//home//x/", "/home/x"),
        ("/", "/"),
        (".", "/work dir"),
        ("./", "/work dir"),
        ("home", "/work dir/home"),
        ("./a:b", "/work dir/a:b"),
        ("../x", "/work dir/../x"),
        ("/a/../b", "/a/../b"),
        ("/a/./b", "/a/b"),
        ("a/b:c", "/work dir/a/b:c"),
        ("a b\nc", "/work dir/a b\nc"),
        ("-x", "/work dir/-x"),
        ("~/x", "/work dir/~/x"),
        ("@home", "/work dir/@home"),
        ("/x/ssh://y/z", "/x/ssh:/y/z"),
        ("/mnt/\udcff", "/mnt/\udcff"),
    ],
)
def test_a_local_path_is_taken_as_it_is_and_made_absolute(text, path):
    assert parse(text) == Location(Scheme.LOCAL, path)


@pytest.mark.parametrize(
    ("text", "host", "user", "port", "path"),
    [
        ("ssh://nas/x", "nas", "", None, "/x"),
        ("ssh://nas/", "nas", "", None, "/"),
        ("ssh://nas:2222/x", "nas", "", 2222, "/x"),
        ("ssh://nas:/x", "nas", "", None, "/x"),
        ("ssh://me@nas/x/", "nas", "me", None, "/x"),
        ("ssh://me@corp@nas:1/x", "nas", "me@corp", 1, "/x"),
        ("ssh://[::1]/x", "::1", "", None, "/x"),
        ("ssh://me@[fe80::1%eth0]:65535/x", "fe80::1%eth0", "me", 65535, "/x"),
        ("ssh://nas/%41%2F", "nas", "", None, "/%41%2F"),
        ("ssh://nas/a b?c#d", "nas", "", None, "/a b?c#d"),
        ("ssh://nas/me@home:22", "nas", "", None, "/me@home:22"),
        ("ssh://nas//x", "nas", "", None, "/x"),
        ("ssh://nas/~/x", "nas", "", None, "/~/x"),
        ("ssh://nas/a\nb", "nas", "", None, "/a\nb"),
    ],
)
def test_an_ssh_place_is_read(text, host, user, port, path):
    assert parse(text) == Location(Scheme.SSH, path, host, user, port)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "empty", ""),
        ("ssh://nas", "absolute", "ssh://nas/PATH"),
        ("ssh://nas:22", "absolute", "ssh://nas:22/PATH"),
        ("ssh://nas:backups", "not a port", ""),
        ("ssh:///x", "not a host name", ""),
        ("ssh://-oProxyCommand=x/y", "not a host name", ""),
        ("ssh://-nas/x", "not a host name", ""),
        ("ssh://me@/x", "not a host name", ""),
        ("ssh://n as/x", "not a host name", ""),
        ("ssh://nas;id/x", "not a host name", ""),
        ("ssh://nas\n/x", "not a host name", ""),
        ("ssh://[nas:/x", "", ""),
        ("ssh://[]/x", "not a host name", ""),
        ("ssh://[::1]x/x", "", ""),
        ("ssh://-l@nas/x", "not a user name", ""),
        ("ssh://a b@nas/x", "not a user name", ""),
        ("ssh://nas:0/x", "not a port", ""),
        ("ssh://nas:65536/x", "not a port", ""),
        ("ssh://nas:-1/x", "not a port", ""),
        ("ssh://nas:ssh/x", "not a port", ""),
        ("ssh://nas:٢٢/x", "not a port", ""),
        ("ssh://::1/x", "not a port", "brackets"),
        ("nas:/x", "path or a host", "ssh://nas/x"),
        ("nas:x", "path or a host", "./nas:x"),
        ("me@nas:/x", "path or a host", "ssh://me@nas/x"),
        ("http://nas/x", "http", "ssh://"),
        ("sftp://nas/x", "sftp", "ssh://"),
        ("file:///x", "file", "/path"),
        ("shell://", "needs a command", ""),
        ("shell://  ", "needs a command", ""),
        ("/x\0y", "NUL", ""),
        ("ssh://nas/x\0y", "NUL", ""),
    ],
)
def test_what_is_no_place_is_refused_with_a_reason(text, message, hint):
    error = refused(text)
    assert message in error.message and hint in error.hint
    assert "\n" not in error.message


@pytest.mark.parametrize("text", ["ssh:/nas/x", "ssh:nas/x", "ssh:"])
def test_a_half_written_ssh_place_gets_the_right_hint(text):
    error = refused(text)
    assert "ssh://ssh" not in error.hint and "ssh://" in error.hint


@pytest.mark.parametrize("text", ["SSH://nas/x", "Ssh://nas/x"])
def test_a_scheme_in_capitals_is_no_local_path(text):
    """A directory ``SSH:`` below the working directory is not what anybody means."""
    assert "ssh://" in refused(text).hint


@pytest.mark.parametrize(
    "text",
    [
        "ssh://me:hunter2@nas/x",
        "ssh://me:hunter2@nas",
        "ssh://:hunter2@nas/x",
        "ssh://me:hunter2@nas:99999/x",
        "ssh://me:hunter2@-bad/x",
        "ssh://me@corp:hunter2@nas/x",
        "http://me:hunter2@nas/x",
        "me:hunter2@nas:/x",
    ],
)
def test_a_password_in_a_place_is_refused_and_not_repeated(text):
    error = refused(text)
    assert "hunter2" not in error.message + error.hint


@given(st.text(LETTERS, min_size=1))
def test_no_message_carries_what_could_steer_a_terminal(text):
    for word in (f"ssh://{text}", f"x{text}:y", f"ssh://nas:{text}/x"):
        try:
            parse(word)
        except UsageError as error:
            said = error.message + error.hint
            kinds = {unicodedata.category(letter) for letter in said}
            assert kinds.isdisjoint({"Cc", "Cs", "Zl", "Zp"})


def test_a_path_below_a_place_is_on_the_same_host():
    place = parse("ssh://me@[::1]:22/srv")
    assert str(place.join(".snap")) == "ssh://me@[::1]:22/srv/.snap"
    assert str(place.join("/abs")) == "ssh://me@[::1]:22/abs"
    assert place.address == "me@[::1]:22"
    assert parse("/a").join("b c").path == os.path.join("/a", "b c")
