"""What a place is, from what the kernel says of it."""

from __future__ import annotations

import pytest

from btrfs_backup_ng.host.facts import has_twin

_DISK = "c4745c38-690c-4a4a-80f9-d3bb693bd879"
_CLONE = "3a69ff5d-0f14-4651-b485-d95dde493c2c"
_OTHER = "19778b83-6d24-4510-bf65-11084ed3de3d"


def _mounted(*filesystems: tuple[str, str, str]) -> str:
    lines = []
    for uuid, metadata, is_temporary in filesystems:
        directory = f"/sys/fs/btrfs/{uuid}"
        lines.append(f"{directory}/metadata_uuid:{metadata}\n")
        lines += [f"{directory}/temp_fsid:{is_temporary}\n"] if is_temporary else []
    return "".join(lines)


@pytest.mark.parametrize(
    "filesystem, beside",
    [
        ("448d8f8300379236", True),
        ("8eec2600d15d7a78", True),
        ("a6129b8b00000000", False),
    ],
)
def test_a_disk_and_its_clone_are_twins_as_long_as_both_are_mounted(
    filesystem: str, beside: bool
) -> None:
    disk, clone = (_DISK, _DISK, "0"), (_CLONE, _DISK, "1")
    other = (_OTHER, _OTHER, "0")
    assert has_twin(filesystem, _mounted(disk, clone, other)) is beside
    assert not has_twin(filesystem, _mounted(disk, other))
    assert not has_twin(filesystem, _mounted(disk, (_CLONE, _DISK, "")))  # btrfstune -m
    assert not has_twin(filesystem, "")
