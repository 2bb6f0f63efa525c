"""pipeline.runtime.atomic: a file or a directory appears whole or not at all."""

from pathlib import Path

import pytest

from pipeline.runtime.atomic import copy, replacing, whole_directory


class InterruptedWriteError(Exception):
    """Stands for whatever ends a write early."""


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value"
    with replacing(path) as temporary:
        temporary.write_text("old", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(InterruptedWriteError), replacing(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise InterruptedWriteError
    assert [(file.name, file.read_text(encoding="utf-8")) for file in path.parent.iterdir()] == [("value", "old")]


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with pytest.raises(InterruptedWriteError), whole_directory(place) as folder:
        (folder / "half").touch()
        raise InterruptedWriteError
    assert list(tmp_path.iterdir()) == []
    with whole_directory(place) as folder:
        (folder / "first").touch()
        assert not place.exists()
    with pytest.raises(InterruptedWriteError), whole_directory(place) as folder:
        (folder / "second").touch()
        raise InterruptedWriteError
    assert [path.name for path in place.iterdir()] == ["first"]


def test_a_file_that_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".tmp-value-999").write_text("half", encoding="utf-8")
    with replacing(tmp_path / "value") as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["value"]


def test_a_directory_that_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".tmp-model-999").mkdir()
    (tmp_path / ".tmp-model-999" / "half").touch()
    with whole_directory(tmp_path / "model") as folder:
        (folder / "weights").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_copy_shares_nothing_with_what_is_protected(tmp_path: Path) -> None:
    """DVC links its cache, write-protected, into the place of an output."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("old", encoding="utf-8")
    (source / "file").chmod(0o444)
    for origin, target in ((source, tmp_path / "folder"), (source / "file", tmp_path / "alone")):
        copy(origin, target)
        copied = target / "file" if target.is_dir() else target
        assert copied.read_text(encoding="utf-8") == "old"
        copied.write_text("new", encoding="utf-8")
        assert copied.stat().st_mode & 0o200
    assert (source / "file").read_text(encoding="utf-8") == "old"
