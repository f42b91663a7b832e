"""The word-level vocabulary."""

from __future__ import annotations

import json
import unicodedata

import pytest
import torch

from aoq_ext.data import Vocabulary, load_icons, read_vocabulary, tokenize

CAPTIONS = ["A red T-shirt!", "a red, red rose", "snow_man 24"]


def test_tokenize():
    assert tokenize("A red T-shirt, snow_man: 24 o’clock!") == [
        "a",
        "red",
        "t",
        "shirt",
        "snow",
        "man",
        "24",
        "o",
        "clock",
    ]
    assert tokenize("Côte d’Ivoire") == ["côte", "d", "ivoire"]
    assert tokenize(" *# ") == []
    assert tokenize("cafe\u0301s \u0130stanbul") == ["caf\u00e9s", "i\u0307stanbul"]  # accents of their own


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("का की", ["का", "की"]),
        ("कुत्ता दौड़ता है।", ["कुत्ता", "दौड़ता", "है"]),
        ("கொடி, பறக்கிறது", ["கொடி", "பறக்கிறது"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("بِسْمِ اللَّهِ", ["بِسْمِ", "اللَّهِ"]),
        ("בְּרֵאשִׁית בָּרָא", ["בְּרֵאשִׁית", "בָּרָא"]),
        ("สุนัข สีแดง", ["สุนัข", "สีแดง"]),
        ("Tiếng Việt", ["tiếng", "việt"]),
        ("\u092e\u0940\u200d\u0915", ["\u092e\u0940\u200d\u0915"]),  # joined
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]),
        ("the\u200d dog\u200d\U0001f436", ["the", "dog"]),  # joined to nothing
        ("☺\ufe0f \u0301b x̸y", ["b", "x̸y"]),  # a mark on no letter is none
        ("𑄇𑄧𑄟𑄬", ["𑄇𑄧𑄟𑄬"]),  # beyond the basic plane
    ],
)
def test_marks_belong_to_their_letters(caption, words):
    assert tokenize(caption) == [unicodedata.normalize("NFC", word) for word in words]


def test_a_byte_order_mark_is_no_word(tmp_path):
    vocabulary = Vocabulary.build(CAPTIONS)
    path = vocabulary.save(tmp_path / "words.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Vocabulary.load(path) == vocabulary
    (tmp_path / "released.json").write_text('["red", "cat"]', encoding="utf-8-sig")
    assert read_vocabulary(tmp_path / "released.json").words[4:] == ["red", "cat"]


def test_build_orders_by_count_then_name():
    vocabulary = Vocabulary.build(CAPTIONS)
    assert vocabulary.words == [
        "<pad>",
        "<start>",
        "<end>",
        "<unk>",
        "red",
        "a",
        "24",
        "man",
        "rose",
        "shirt",
        "snow",
        "t",
    ]
    assert len(vocabulary) == 12
    assert Vocabulary.build(CAPTIONS, min_count=2).words[4:] == ["red", "a"]
    assert len(Vocabulary.build([])) == 4


def test_encode_pads_and_counts():
    tokens, lengths = Vocabulary.build(CAPTIONS).encode(["red rose", "a blue red shirt", ""])
    assert tokens.dtype == lengths.dtype == torch.int64
    assert tokens.tolist() == [[1, 4, 8, 2, 0, 0], [1, 5, 3, 4, 9, 2], [1, 2, 0, 0, 0, 0]]
    assert lengths.tolist() == [4, 6, 2]


def test_encode_nothing():
    tokens, lengths = Vocabulary.build(CAPTIONS).encode([])
    assert tokens.shape == (0, 0)
    assert lengths.shape == (0,)


def test_decode():
    vocabulary = Vocabulary.build(CAPTIONS)
    tokens, _ = vocabulary.encode(["a red cat", "red"])
    assert vocabulary.decode(tokens[0]) == "a red <unk>"
    assert vocabulary.decode(tokens[1]) == "red"


def test_save_and_load(tmp_path):
    vocabulary = Vocabulary.build(load_icons("val").captions)
    path = vocabulary.save(tmp_path / "folder" / "words.json")
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert hash(loaded) == hash(vocabulary)
    assert loaded != Vocabulary.build(CAPTIONS)
    assert json.loads(path.read_text(encoding="utf-8"))["words"] == vocabulary.words[4:]
    assert [entry.name for entry in path.parent.iterdir()] == ["words.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no valid JSON"),
        ('{"format": "aoq_ext.voc', "no valid JSON"),
        ("[]", "other JSON"),
        ('{"words": ["a"]}', "other JSON"),
        ('{"format": "aoq_ext.vocabulary/1", "words": ["a", 1]}', "words: expected a list of strings"),
        ('{"format": "aoq_ext.vocabulary/1", "words": ["a", "a"]}', "'a' twice"),
        ('{"format": "aoq_ext.vocabulary/1", "words": ["<pad>"]}', "'<pad>' twice"),
    ],
)
def test_load_refuses_other_files(tmp_path, content, message):
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Vocabulary.load(path)


def test_bytes_are_refused():
    with pytest.raises(TypeError, match="expected str, got bytes"):
        Vocabulary.build([b"a cat"])  # type: ignore[list-item]
    for printed in ("b'a cat'", 'b"the cat\'s hat"', " b'two\\nlines'\n"):
        with pytest.raises(ValueError, match="printed form of a bytes object"):
            Vocabulary.build(["fine", printed])
        with pytest.raises(ValueError, match="decode the bytes"):
            Vocabulary.build(["fine"]).encode([printed])
    assert tokenize("b 'quoted' word") == ["b", "quoted", "word"]


@pytest.mark.parametrize("single", ["a cat", b"a cat"])
def test_one_caption_is_not_a_list(single):
    with pytest.raises(TypeError, match="captions: expected a list of str"):
        Vocabulary.build(single)
    with pytest.raises(TypeError, match="captions: expected a list of str"):
        Vocabulary.build([]).encode(single)
