"""Networks that embed images: backbones, heads, and cached features of frozen backbones."""

from papers.networks.backbones import BACKBONES, Backbone, backbone, convnet4, find_backbone
from papers.networks.cache import cache_features
from papers.networks.convnet import EmbeddingNet
from papers.networks.embedding import EmbeddingHead, EmbeddingNetwork, Standardize, parameter_groups

__all__ = [
    "BACKBONES",
    "Backbone",
    "EmbeddingHead",
    "EmbeddingNet",
    "EmbeddingNetwork",
    "Standardize",
    "backbone",
    "cache_features",
    "convnet4",
    "find_backbone",
    "parameter_groups",
]
