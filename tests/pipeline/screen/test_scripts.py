"""Captions in the scripts of the world, short ones, and what only looks like markup."""

from __future__ import annotations

import pytest

from pipeline.captions import clean_caption
from pipeline.screen.captions import caption_length, screen_caption
from pipeline.screen.limits import PRESETS
from pipeline.sources.base import Rejected

CAPTIONS = {
    "hindi": "मिट्टी की दीवार के सामने खड़ी स्त्री",
    "hindi, one word": "बिल्ली",
    "tamil": "மரத்தின் கீழே உட்கார்ந்திருக்கும் பெண்",
    "telugu": "చెట్టు కింద కూర్చున్న స్త్రీ",
    "malayalam": "മരത്തിന്റെ ചുവട്ടിൽ ഇരിക്കുന്ന സ്ത്രീ",
    "kannada": "ಮರದ ಕೆಳಗೆ ಕುಳಿತಿರುವ ಹೆಣ್ಣು",
    "bengali": "গাছের নিচে বসে থাকা মেয়েটি",
    "sinhala": "ගස යට වාඩි වී සිටින කාන්තාව",
    "burmese": "သစ်ပင်အောက်တွင် ထိုင်နေသော အမျိုးသမီး",
    "khmer": "ស្ត្រីម្នាក់អង្គុយក្រោមដើមឈើ",
    "thai": "ผู้หญิงนั่งอยู่ใต้ต้นไม้",
    "lao": "ຜູ້ຍິງນັ່ງຢູ່ກ້ອງຕົ້ນໄມ້",
    "tibetan": "ཤིང་སྡོང་འོག་ཏུ་བསྡད་པའི་བུད་མེད།",
    "arabic, with vowels": "اِمْرَأَةٌ جَالِسَةٌ تَحْتَ الشَّجَرَةِ",
    "hebrew, pointed": "אִשָּׁה יוֹשֶׁבֶת תַּחַת הָעֵץ",
    "amharic": "ድመት በዛፍ ስር",
    "georgian": "კატა ხის ქვეშ",
    "greek": "γάτα κάτω από δέντρο",
    "vietnamese": "người phụ nữ ngồi dưới gốc cây",
    "chinese": "树下的女人",
    "chinese, two": "风景",
    "chinese, one": "猫",
    "japanese": "木の下に座っている女性",
    "kana": "ねこ",
    "half-width kana": "ﾈｺ",
    "korean": "나무 아래 앉아 있는 여자",
    "korean, one": "산",
    "token": "a photo of <sks> dog in a bucket",
    "tokens": "a photo of <s0><s1> chair",
    "textual inversion": "a <cat-toy> on a shelf",
    "comparison": "a graph where x < y and y > z",
    "heart": "i <3 you so much",
    "in brackets": "a <small red cube> here",
}


@pytest.mark.parametrize("preset", ["default", "strict"])
@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_are_captions_in_any_script(name: str, preset: str) -> None:
    screen_caption(clean_caption(CAPTIONS[name]), PRESETS[preset])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a <b>red</b> cube", "caption_not_text"), ("red<br>cube", "caption_not_text"),
        ('see <a href="x">this</a>', "caption_not_text"), ("<!-- no caption -->", "caption_not_text"),
        ("12/05/2021 18:33", "caption_not_text"), ("🐈🌳☀️", "caption_not_text"), ("P1", "caption_empty"),
        ("ok", "caption_empty"), ("", "caption_empty"), ("IMG_2041.jpg", "caption_not_text"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_still_named(text: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        screen_caption(clean_caption(text), PRESETS["default"])


def test_one_han_character_weighs_as_much_as_three_letters() -> None:
    assert [caption_length(text) for text in ("cat", "猫", "ねこ", "산", "ﾈｺ", "Ａ", "🐈", "हि")] == [
        3,
        3,
        6,
        3,
        6,
        1,
        1,
        2,
    ]
