"""The README: its reader reads what the store writes, and what it names exists."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.store.records import ScoredSequence
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from tests.factories import rollout
from tests.scores import head_only, header

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _sequence(completion: list[int], generator: np.random.Generator) -> ScoredSequence:
    n = len(completion)
    counts = generator.integers(1, 9, n)
    ids = np.concatenate([generator.choice(300, count, replace=False) for count in counts]).astype(np.int32)
    logp = np.log(generator.uniform(1e-5, 0.9, len(ids)))
    scores = head_only(ids, logp, counts, tail=0.1, token_logp=-1.0)
    return ScoredSequence(rollout=rollout(str(completion), completion, source="dataset", finished=True), scores=scores)


def test_the_reader_in_the_readme_reads_a_segment(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sequences = [_sequence(list(range(length)), generator) for length in (5, 1, 12)]
    write_segment(tmp_path / "segment", sequences, header(300), generator.permutation(300))
    namespace: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, namespace)
    segment = Segment.open(tmp_path / "segment")
    for row, expected in enumerate(segment.read(0, 3)):
        read = namespace["read_head"](tmp_path / "segment", row)
        assert [len(ids) for ids, _ in read] == expected.top.counts.tolist()
        assert np.concatenate([ids for ids, _ in read]).tolist() == expected.top.ids.tolist()
        assert np.log(np.concatenate([p for _, p in read])) == pytest.approx(expected.top.logp, abs=1e-5)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:pipeline|stages|schemas|docs|tests)/[\w./]*)`", README))))
def test_files_that_the_readme_names_exist(path: str) -> None:
    assert (ROOT / path).exists()
