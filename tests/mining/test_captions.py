"""Captions that say the same, and the labels made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

from aoq_ext.data import Vocabulary
from aoq_ext.mining.captions import caption_labels, normalised, token_labels


@pytest.mark.parametrize(
    ("caption", "same"),
    [
        ("A dog runs.", "a  dog\truns"),
        ("A dog runs . ", "a dog runs!?"),
        ("STRASSE", "straße"),
        ("\u3000A dog\u00a0runs", "a dog runs"),
        ("the red ball", "the \u201cred\u201d ball"),
        ("the red ball", 'the "red" ball.'),
        ("the red ball", "the ``red\u00b4\u00b4 ball"),
        ("a-b", "a b"),
        ("a. b", "a b"),
        ("caf\u00e9", "cafe\u0301"),
        ("?!", " ?! "),
    ],
)
def test_captions_that_say_the_same(caption: str, same: str) -> None:
    assert normalised(caption) == normalised(same)


@pytest.mark.parametrize(
    ("one", "other"), [("a dog", "a dogs"), ("it's", "its"), ("का", "की"), ("?!", "..."), ("...", ""), ("c++", "c")]
)
def test_captions_that_do_not(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_caption_labels() -> None:
    captions = ["A dog.", "a cat", "a DOG", "a bird", "a cat!", "a dog"]
    texts, images = caption_labels(captions, torch.tensor([2, 0, 0, 3, 3, 2]), 5)
    assert [part.tolist() for part in texts] == [[0, 1, 0, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6]]
    assert [part.tolist() for part in images] == [[0, 1, 0, 1, 2], [0, 2, 2, 3, 5, 5]]
    nothing = caption_labels([], torch.zeros(0, dtype=torch.int64), 2)
    assert [part.tolist() for part in (*nothing[0], *nothing[1])] == [[], [0], [], [0, 0, 0]]
    with pytest.raises(ValueError, match="captions must be one for each of the 2 texts, got 1"):
        caption_labels(["a"], torch.tensor([0, 0]), 1)
    with pytest.raises(ValueError, match="text_image_index must be from 0 to 0, got 0 to 1"):
        caption_labels(["a", "b"], torch.tensor([0, 1]), 1)


def test_token_labels_are_of_what_a_model_reads() -> None:
    """What lies behind a caption's length does not count."""
    tokens = torch.tensor([[1, 5, 2, 0], [1, 5, 2, 9], [1, 6, 2, 0], [1, 5, 2, 0]])
    texts, images = token_labels(tokens, torch.tensor([3, 3, 3, 4]), torch.tensor([0, 1, 1, 2]), 3)
    assert texts[0].tolist() == [0, 0, 1, 2]
    assert images[0].tolist() == [0, 0, 1, 2]
    unknown = Vocabulary(["the"]).encode(["the zebra", "The 'quokka'", "the", "?!", "..."])
    assert token_labels(*unknown, torch.arange(5), 5)[0][0].tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("captions", ["a dog", b"a dog", 3])
def test_one_string_is_no_list_of_captions(captions: Any) -> None:
    with pytest.raises(TypeError, match=f"captions: expected a list of str, got {type(captions).__name__}: "):
        caption_labels(captions, torch.zeros(5, dtype=torch.int64), 1)
