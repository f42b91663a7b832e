"""Image-text data: the bundled emoji set, the type that every loader returns, and a word-level vocabulary."""

from aoq_ext._files import write_atomically, write_bytes_atomically
from aoq_ext.data.emoji_set import SPLITS as EMOJI_SPLITS
from aoq_ext.data.emoji_set import DataError, load_emoji
from aoq_ext.data.image_text import ImageTextData
from aoq_ext.data.vocabulary import Vocabulary, tokenize

__all__ = [
    "EMOJI_SPLITS",
    "DataError",
    "ImageTextData",
    "Vocabulary",
    "load_emoji",
    "tokenize",
    "write_atomically",
    "write_bytes_atomically",
]
