"""Tests of sentence pairs, and of BLEU and chrF against sacrebleu."""

import os
from pathlib import Path

import pytest
import sacrebleu

from pipeline.metrics.bleu import corpus_scores, sentence_score
from pipeline.tasks.base import Case
from pipeline.tasks.translation import Translation, TranslationSettings

TEXTS = ["the cat sat on the mat today", "there is a dog", "he runs"]
RIGHT = ["the cat sat on a mat today", "there was a dog in the house", "he runs"]
OTHER = ["a cat was sitting on the mat", "a dog is there", "he is running"]


def cases(data: Path, train: str, heldout: str, source: str, target: str) -> list[Case]:
    settings = TranslationSettings(
        data=str(data),
        config=None,
        revision=None,
        train_split=train,
        heldout_split=heldout,
        source_column=source,
        target_column=target,
    )
    return Translation().cases(settings)


def test_pairs_of_files_become_cases(tmp_path: Path) -> None:
    for name, lines in {
        "val.en": "A dog.\nA cat.\n",
        "val.de": "Ein Hund.\nEine Katze.\n",
        "train.en": "A bird.\n\nA dog.\nA bird.\n",
        "train.de": "Ein Vogel.\nNichts.\nHund.\nDer Vogel.\n",
    }.items():
        (tmp_path / name).write_text(lines, encoding="utf-8")
    pairs = cases(tmp_path, "train", "val", "en", "de")
    assert [(case.split, case.fields["source"], case.references) for case in pairs] == [
        ("heldout", "A dog.", ("Ein Hund.",)),
        ("heldout", "A cat.", ("Eine Katze.",)),
        ("train", "A bird.", ("Ein Vogel.", "Der Vogel.")),
    ]


def test_corpus_scores_are_sacrebleus() -> None:
    single = corpus_scores(TEXTS, [[right] for right in RIGHT])
    assert single["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [RIGHT]).score)
    assert single["chrf"] == pytest.approx(sacrebleu.corpus_chrf(TEXTS, [RIGHT]).score)
    double = corpus_scores(TEXTS, list(zip(RIGHT, OTHER, strict=True)))
    assert double["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [RIGHT, OTHER]).score)
    assert double["bleu"] > single["bleu"]


def test_texts_may_have_different_numbers_of_references() -> None:
    uneven = corpus_scores(TEXTS, [RIGHT[:1], [RIGHT[1], OTHER[1]], RIGHT[2:]])
    even = corpus_scores(TEXTS, [[RIGHT[0]] * 2, [RIGHT[1], OTHER[1]], [RIGHT[2]] * 2])
    assert uneven == pytest.approx(even)


def test_the_sentence_score_takes_the_best_reference_and_grows_with_likeness() -> None:
    assert sentence_score(TEXTS[0], [RIGHT[0], OTHER[0]]) == pytest.approx(sentence_score(TEXTS[0], RIGHT[:1]))
    ladder = [sentence_score(text, ["he runs home"]) for text in ("", "to", "he", "he runs", "he runs home")]
    assert ladder == sorted(ladder)
    assert (ladder[0], ladder[-1]) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("folder", "train", "heldout", "columns", "count"),
    [
        ("multi30k", "val", "test_2016_flickr", ("en", "de"), 1000),
        ("wmt-ende", "val[:40]", "val[40:]", ("src", "tgt"), 10),
    ],
)
def test_the_published_files_are_aligned(
    folder: str, train: str, heldout: str, columns: tuple[str, str], count: int
) -> None:
    data = Path(os.environ.get("STILLROOM_DATA", Path(__file__).parents[2] / "../shared/data")) / folder
    if not data.is_dir():
        pytest.skip(f"no data in {data}; STILLROOM_DATA names another place")
    sentences = cases(data, train, heldout, *columns)
    assert sum(case.split == "heldout" for case in sentences) == count
    lengths = [len(case.references[0]) / len(case.fields["source"]) for case in sentences]
    assert 0.8 < sorted(lengths)[len(lengths) // 2] < 1.4
