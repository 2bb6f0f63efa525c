"""pipeline.core.hashing: equal content has an equal name, other content another one, on every machine."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.hashing import derive_seed, digest, file_digest, ids_digest, model_fingerprint, tree_digest


def test_a_digest_is_a_function_of_content() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    assert digest("ü", 1) == hashlib.blake2b('["ü",1]'.encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a",), (["a"],)),
        ((1,), ("1",)),
        (([1, 2],), ([1], [2])),
        ((), ("",)),
        ((1,), (1.5,)),
    ],
)
def test_boundaries_and_types_are_content(first: tuple[object, ...], second: tuple[object, ...]) -> None:
    assert digest(*first) != digest(*second)


def test_seeds_fit_a_signed_integer_and_spread() -> None:
    seeds = {derive_seed("seed", index) for index in range(500)}
    assert len(seeds) == 500
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert max(seeds) > 1 << 62


def test_token_ids_are_hashed_as_little_endian_int32() -> None:
    assert ids_digest([]) == hashlib.sha256(b"").digest()
    assert ids_digest([1, 258]) == hashlib.sha256(b"\x01\0\0\0\x02\x01\0\0").digest()


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"x" * (1 << 22) + b"y")
    second.write_bytes(b"x" * (1 << 22) + b"y")
    assert file_digest(first) == file_digest(second)
    second.write_bytes(b"x" * (1 << 22) + b"z")
    assert file_digest(first) != file_digest(second)


def test_a_directory_is_known_by_names_and_contents_and_not_by_place_or_time(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "a").write_text("1", encoding="utf-8")
    (tree / "deep" / "b").write_text("2", encoding="utf-8")
    before = tree_digest(tree)
    copied = Path(shutil.copytree(tree, tmp_path / "copy"))
    os.utime(copied / "a", (0, 0))
    assert tree_digest(copied) == before
    (copied / "a").rename(copied / "c")
    assert tree_digest(copied) != before
    (copied / "c").rename(copied / "a")
    (copied / "deep" / "b").write_text("3", encoding="utf-8")
    assert tree_digest(copied) != before


def test_fingerprint_follows_weights_and_configuration_only(
    make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    first, same, other = (make_model_dir(tmp_path / name, seed=seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)])
    assert model_fingerprint(first) == model_fingerprint(same) != model_fingerprint(other)
    (same / "tokenizer.json").unlink()
    assert model_fingerprint(same) == model_fingerprint(first)
    config = json.loads((same / "config.json").read_text(encoding="utf-8"))
    (same / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}), encoding="utf-8")
    assert model_fingerprint(same) != model_fingerprint(first)
