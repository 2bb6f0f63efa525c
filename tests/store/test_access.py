"""Whether the store can be written, before anything is scored."""

import os
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.runtime.errors import StoreError
from pipeline.store.access import check_writable


def test_a_store_that_is_there_or_can_be_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "store" / "segments").mkdir(parents=True)
    check_writable(tmp_path / "store")
    assert list((tmp_path / "store").rglob("*")) == [tmp_path / "store" / "segments"]


@pytest.mark.parametrize("place", ["store", "store/ranks", "link"])
def test_a_place_that_is_no_directory(tmp_path: Path, place: str) -> None:
    """A file in place of the store or of a directory in it, or a link to nothing."""
    (tmp_path / place).parent.mkdir(exist_ok=True)
    if place == "link":
        (tmp_path / place).symlink_to(tmp_path / "nothing")
    else:
        (tmp_path / place).touch()
    with pytest.raises(StoreError) as caught:
        check_writable(tmp_path / place.partition("/")[0])
    assert str(caught.value).startswith(f"{tmp_path / place}: expected a place for the store that can be written, got ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match="got Permission denied"):
        check_writable(tmp_path / "store")
    tmp_path.chmod(0o755)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(StoreError, match=r"got 5\.0 kB of free space; mend it, or set STILLROOM_STORE"):
        check_writable(tmp_path)
