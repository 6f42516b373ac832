"""Networks that embed images: backbones, heads, and features of frozen backbones that are computed once."""

from hardmine.networks.backbones import BACKBONES, Backbone, backbone, convnet4
from hardmine.networks.cache import cache_features
from hardmine.networks.convnet import EmbeddingNet
from hardmine.networks.embedding import EmbeddingHead, EmbeddingNetwork, Standardize, parameter_groups

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
    "parameter_groups",
]
