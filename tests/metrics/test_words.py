"""Tests of words, ROUGE and BLEU in scripts of many kinds."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from pipeline.metrics.bleu import corpus_scores, sentence_bleu
from pipeline.metrics.rouge import rouge, rouge_l
from pipeline.metrics.words import split_words, unspaced_script

# Two sentences of each language: about the weather, and about inflation.
PAIRS = {
    "Chinese": ("今天北京的天气非常好，我们去公园散步。", "经济学家预计明年的通货膨胀率将会下降到百分之三。"),
    "Japanese": (
        "今日は天気がとても良いので、公園へ行きました。",
        "経済学者は来年のインフレ率が下がると予想している。",
    ),
    "Korean": ("오늘 날씨가 아주 좋아서 공원에 산책하러 갔다", "경제학자들은 내년 물가상승률이 낮아질 것으로 예상한다"),
    "Thai": ("วันนี้อากาศดีมากเราจึงไปเดินเล่นที่สวนสาธารณะ", "นักเศรษฐศาสตร์คาดว่าอัตราเงินเฟ้อปีหน้าจะลดลงเหลือสาม"),
    "Khmer": ("ថ្ងៃនេះអាកាសធាតុល្អណាស់យើងទៅដើរលេងនៅសួន", "អ្នកសេដ្ឋកិច្ចរំពឹងថាអតិផរណាឆ្នាំក្រោយនឹងធ្លាក់ចុះ"),
    "Burmese": ("ဒီနေ့ ရာသီဥတု အလွန်ကောင်းတဲ့အတွက် ပန်းခြံသွားတယ်", "စီးပွားရေးပညာရှင်များက ငွေကြေးဖောင်းပွမှု ကျဆင်းမည်ဟု"),
    "Russian": (
        "Сегодня в Москве хорошая погода, мы гуляем.",
        "Экономисты ожидают, что инфляция снизится до трёх процентов.",
    ),
    "Hindi": ("आज मौसम बहुत अच्छा है, हम पार्क में घूमने गए", "अर्थशास्त्रियों को उम्मीद कि अगले साल महंगाई घटेगी"),
    "Arabic": ("الطقس جميل جدا اليوم وذهبنا للتنزه في الحديقة", "يتوقع الاقتصاديون أن ينخفض التضخم إلى ثلاثة بالمئة"),
    "Greek": ("Σήμερα ο καιρός είναι πολύ καλός", "Οι οικονομολόγοι αναμένουν μείωση του πληθωρισμού"),
    "Hebrew": ("מזג האוויר היום יפה מאוד", "כלכלנים צופים שהאינפלציה תרד בשנה הבאה"),
}


@pytest.mark.parametrize("language", PAIRS)
def test_a_text_is_worth_1_beside_itself_and_little_beside_another(language: str) -> None:
    text, other = PAIRS[language]
    assert rouge(text, [text]) == {"rouge_1": 1.0, "rouge_2": 1.0, "rouge_l": 1.0}
    assert sentence_bleu(text, [other, text]) == pytest.approx(1)
    assert corpus_scores([text], [[text]])["bleu"] == pytest.approx(100)
    assert rouge_l(text, [other]) < 0.15
    assert sentence_bleu(text, [other]) < 0.15


@pytest.mark.parametrize("language", PAIRS)
def test_half_a_text_is_worth_something(language: str) -> None:
    text, _ = PAIRS[language]
    assert 0.4 < rouge_l(text[: len(text) // 2], [text]) < 0.9


@pytest.mark.parametrize("text", ["It's the runners' 2nd run: f(x)_y = 3.50!", "", "-- !"])
def test_ascii_texts_have_the_scores_of_the_library(text: str) -> None:
    reference = "The runner runs a 2nd time, f x y 3 50"
    score = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, text)
    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    assert rouge(text, [reference]) == {name: score[key].fmeasure for name, key in names.items()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("naïve CAFÉ’s", ["naïve", "café", "s"]),
        ("cafe\u0301", ["café"]),
        ("नमस्ते, दुनिया", ["नमस्ते", "दुनिया"]),
        ("می\u200cروم", ["میروم"]),
        ("我有3只cats。", ["我", "有", "3", "只", "cats"]),
        ("東京へ行く", ["東", "京", "へ", "行", "く"]),
        ("できます", ["でき", "きま", "ます"]),
        ("สวัสดี", ["สวั", "วัส", "สดี"]),
        ("ＡＢＣ　１２", ["abc", "12"]),
        ("!?…", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_the_script_of_the_references_decides_the_tokens_of_bleu() -> None:
    scripts = {language: unspaced_script(pair) for language, pair in PAIRS.items()}
    assert {language for language, script in scripts.items() if script} == {
        *("Chinese", "Japanese", "Thai", "Khmer", "Burmese"),
    }
    assert (scripts["Chinese"], scripts["Japanese"], scripts["Thai"]) == ("han", "kana", "other")
    assert unspaced_script(["The word 漢字 is Japanese."]) is None
