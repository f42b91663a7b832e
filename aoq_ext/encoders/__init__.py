"""Small encoders for the bundled data; a configuration may name any other ``nn.Module`` in their place."""

from aoq_ext.encoders.augment import RandomView
from aoq_ext.encoders.image import ConvEncoder
from aoq_ext.encoders.text import GRUEncoder

__all__ = ["ConvEncoder", "GRUEncoder", "RandomView"]
