"""Image sets for retrieval: some classes train, the others are only retrieved.

The protocol of deep metric learning scores retrieval on classes that training never saw (SCT section 6, EP section 5).
It tests whether the embedding generalizes, not whether it memorizes.
"""

from collections.abc import Callable, Mapping

from papers.datasets.cars import load_cars
from papers.datasets.check import CorruptImage, check_images
from papers.datasets.cub import load_cub
from papers.datasets.digits import RetrievalSplit, load_digits
from papers.datasets.folder import load_image_folder
from papers.datasets.hotels import load_hotels
from papers.datasets.images import ImageDataset, ImageSplit
from papers.datasets.in_shop import load_in_shop
from papers.datasets.lfw import VerificationPairs, load_lfw_pairs
from papers.datasets.omniglot import OMNIGLOT_HALVES, OMNIGLOT_TREE, load_omniglot, load_omniglot_images
from papers.datasets.online_products import load_online_products
from papers.datasets.transforms import SeededTransform, Transforms

# The published sets for training and retrieval, by the names that commands use: `loader(root, partial=...)`.
IMAGE_SPLITS: Mapping[str, Callable[..., ImageSplit]] = {
    "cub": load_cub,
    "cars": load_cars,
    "online_products": load_online_products,
    "in_shop": load_in_shop,
    "hotels": load_hotels,
    "omniglot": load_omniglot_images,
}

__all__ = [
    "IMAGE_SPLITS",
    "OMNIGLOT_HALVES",
    "OMNIGLOT_TREE",
    "CorruptImage",
    "ImageDataset",
    "ImageSplit",
    "RetrievalSplit",
    "SeededTransform",
    "Transforms",
    "VerificationPairs",
    "check_images",
    "load_cars",
    "load_cub",
    "load_digits",
    "load_hotels",
    "load_image_folder",
    "load_in_shop",
    "load_lfw_pairs",
    "load_omniglot",
    "load_omniglot_images",
    "load_online_products",
]
