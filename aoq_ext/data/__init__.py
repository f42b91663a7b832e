"""Image-text data: the bundled icons, the formats of the field, the type that loaders return, and vocabularies."""

from aoq_ext.data.captions import read_captions
from aoq_ext.data.errors import DataError
from aoq_ext.data.icon_set import SPLITS as ICON_SPLITS
from aoq_ext.data.icon_set import load_icons
from aoq_ext.data.image_rows import ImageRows, fingerprint_images, hash_images, read_rows
from aoq_ext.data.image_text import ImageTextData
from aoq_ext.data.karpathy import load_karpathy
from aoq_ext.data.pictures import Pictures
from aoq_ext.data.precomputed import load_precomputed
from aoq_ext.data.released_vocabulary import read_vocabulary
from aoq_ext.data.tokenizer import Tokenizer
from aoq_ext.data.vocabulary import Vocabulary, tokenize

__all__ = [
    "ICON_SPLITS",
    "DataError",
    "ImageRows",
    "ImageTextData",
    "Pictures",
    "Tokenizer",
    "Vocabulary",
    "fingerprint_images",
    "hash_images",
    "load_icons",
    "load_karpathy",
    "load_precomputed",
    "read_captions",
    "read_rows",
    "read_vocabulary",
    "tokenize",
]
