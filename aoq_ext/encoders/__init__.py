"""Encoders: small ones for the bundled data, and those of VSE++, VSRN, SCAN and BFAN for region features.

A configuration may name any other ``nn.Module`` in their place.
"""

from aoq_ext.encoders.augment import RandomView
from aoq_ext.encoders.captioning import CaptioningLoss
from aoq_ext.encoders.cross_attention import CrossAttention
from aoq_ext.encoders.feature_store import FeatureStore
from aoq_ext.encoders.image import ConvEncoder, GridBackbone
from aoq_ext.encoders.model import EmbeddingModel, Features, MatchingModel, quintuplet_scores
from aoq_ext.encoders.regions import GlobalImageEncoder, RegionEncoder
from aoq_ext.encoders.scan import BFAN, SCAN, CrossAttentionModel
from aoq_ext.encoders.score_matrix import PackedFeatures, score_blocks, score_matrix
from aoq_ext.encoders.text import GRUEncoder
from aoq_ext.encoders.vsrn import RegionGraphLayer, VSRNEncoder
from aoq_ext.encoders.words import BiGRUWordEncoder, GRUTextEncoder

__all__ = [
    "BFAN",
    "SCAN",
    "BiGRUWordEncoder",
    "CaptioningLoss",
    "ConvEncoder",
    "CrossAttention",
    "CrossAttentionModel",
    "EmbeddingModel",
    "FeatureStore",
    "Features",
    "GRUEncoder",
    "GRUTextEncoder",
    "GlobalImageEncoder",
    "GridBackbone",
    "MatchingModel",
    "PackedFeatures",
    "RandomView",
    "RegionEncoder",
    "RegionGraphLayer",
    "VSRNEncoder",
    "quintuplet_scores",
    "score_blocks",
    "score_matrix",
]
