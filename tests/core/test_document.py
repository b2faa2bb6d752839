"""What values become in documents."""

import enum
import json
import os
from base64 import b64decode
from datetime import datetime, timedelta, timezone
from typing import Annotated
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import Refused
from btrfs_backup_ng.actions.verify.identity import Check, Finding
from btrfs_backup_ng.actions.verify.manifest import Aspect, Difference
from btrfs_backup_ng.core.document import Aged, Inline, Lines, Named, to_document
from btrfs_backup_ng.core.events import Deleted
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.model import Result
from btrfs_backup_ng.core.value import Value


class Colour(enum.Enum):
    RED = "red"


class Sides(enum.IntFlag):
    LEFT = 1
    RIGHT = 2


class Inner(Value):
    from_: Annotated[str, Named("from")]


class Outer(Value):
    inner: Inline[Inner]
    hint: Lines = "one\ntwo"
    path: bytes = b"plain"
    lines: Annotated[Lines, Named("fix")] = "do\nit"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (Colour.RED, "red"),
        (Sides.LEFT | Sides.RIGHT, ["left", "right"]),
        (Sides(0), []),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=1))),
         "2026-01-02T02:04:05+00:00"),
        (Refused("no", hint="a\nb"), {"message": "no", "hint": ["a", "b"]}),
        (parse_location("ssh://h/p", working_directory="/"), "ssh://h/p"),
        ((1, (2,)), [1, [2]]),
        ({Colour.RED: 1}, {"red": 1}),
        (Outer(Inner("here")),
         {"from": "here", "hint": ["one", "two"], "path": "plain",
          "fix": ["do", "it"]}),
        (Deleted("/p", "x", dry=False),
         {"event": "deleted", "place": "/p", "name": "x", "dry": False}),
        (Finding(Result.BAD, Check.SEAL, "text", "a\nb"),
         {"result": "bad", "check": "seal", "text": "text", "hint": ["a", "b"]}),
    ],
)  # fmt: skip
def test_what_a_value_becomes(value, expected):
    assert to_document(value) == expected


class Made(Value):
    created: Aged[datetime | None]


def test_an_age_is_told_if_it_can_be():
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    time = "2025-12-31T23:59:00+00:00"
    made = Made(now - timedelta(seconds=60))
    assert to_document(made, now) == {"created": time, "age_s": 60}
    assert to_document(Made(None), now) == {"created": None, "age_s": None}
    assert to_document(made) == {"created": time}


@given(st.binary())
def test_a_path_comes_back_whatever_its_bytes(path):
    written = to_document(Difference(path, Aspect.MODE, "644", "600"))
    read = json.loads(json.dumps(written))
    assert os.fsencode(read["path"]) == path
    try:
        assert path.decode() == read["path"]
        assert "path_base64" not in read
    except UnicodeDecodeError:
        assert b64decode(read["path_base64"]) == path


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"bytes alone",
    ],
)
def test_what_has_no_form_is_an_error(value):
    with pytest.raises(TypeError):
        to_document(value)
