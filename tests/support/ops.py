"""The ops, their arguments, and parametrizations over them."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIMILARITIES = ("cosine", "dot", "euclidean")
PRESETS = ("paper", "code2020", "code2021")
TERMS = ("nca", "hinge", "soft_margin", "sct")
REDUCTIONS = ("mean", "sum", "none")
POSITIVES = ("easiest", "hardest", "all")  # which of an anchor's positives the tuplet losses use
# On an emulated GPU, the CUDA ops take CPU tensors and behave as on a GPU.
EMULATED = "HARDMINE_EMULATED_CUDA" in os.environ
SELECTED_LOSSES = ("triplet_loss", "sct_loss")  # one selected positive and negative per anchor
SELECTING_OPS = ("select_triplets", *SELECTED_LOSSES)
LOSSES = (*SELECTED_LOSSES, "tuplet_loss", "batch_all_triplet_loss")
OPS = ("select_triplets", *LOSSES, "knn")
# They have tests of their own: test_soft_losses.py, test_info_nce_loss.py, test_multi_similarity_loss.py,
# test_circle_loss.py and test_sigmoid_loss.py. All but sigmoid_loss call the compiled op logsumexp.
SOFT_LABELED_OPS = ("logsumexp", "supcon_loss")
SOFT_OPS = (*SOFT_LABELED_OPS, "circle_loss", "info_nce_loss", "multi_similarity_loss", "sigmoid_loss")
OPS_WITH_LABELS = ("select_triplets", *LOSSES)
# What ranks compute of a shared loss. No face calls them alone: test_shared_selection.py and test_shared_tuplet.py do.
OPS_OF_PARTS = (
    "select_triplets_part",
    "selection_of_parts",
    "triplet_loss_of_parts",
    "triplet_loss_backward_rows",
    "tuplet_loss_part",
    "tuplet_loss_of_parts",
    "tuplet_loss_backward_part",
)
# What rings of ranks and whole sets compute with one block. No face calls them alone: test_blocks.py and
# test_knn_block.py do.
OPS_OF_BLOCKS = ("select_triplets_block", "tuplet_logsumexp", "tuplet_positives", "knn_block")

# The option that makes a loss return a second value.
RETURNS_MORE = {
    "triplet_loss": "return_selection",
    "sct_loss": "return_selection",
    "tuplet_loss": "return_terms",
    "batch_all_triplet_loss": "return_counts",
}


def similarities_of_op(name: str) -> tuple[str, ...]:
    """The similarities that an op takes."""
    return tuple(s for s in SIMILARITIES if name != "batch_all_triplet_loss" or s != "dot")


def reductions_of(name: str) -> tuple[str, ...]:
    """The reductions that a loss takes."""
    return ("mean", "sum", "mean_active") if name == "batch_all_triplet_loss" else REDUCTIONS


def each_of(names: tuple[str, ...]) -> pytest.MarkDecorator:
    """Parametrizes a test by the op's name."""
    return pytest.mark.parametrize("name", names)


def each_with_similarity(names: tuple[str, ...], cpu: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Parametrizes a test by op name and similarity, for all that the op takes; ops in ``cpu`` get the mark ``cpu``."""
    pairs = [
        pytest.param(name, similarity, marks=[pytest.mark.cpu] if name in cpu else [])
        for name in names
        for similarity in similarities_of_op(name)
    ]
    return pytest.mark.parametrize(("name", "similarity"), pairs)


def each_with_refs(names: tuple[str, ...], refs: int = 30) -> pytest.MarkDecorator:
    """Parametrizes a test by op name and number of refs, None and ``refs``."""
    cases = [(name, count) for name in names for count in (None, refs)]
    return pytest.mark.parametrize(("name", "refs"), cases, ids=[f"{n}-{'refs' if r else 'self'}" for n, r in cases])


DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


def has_cuda_kernel(name: str) -> bool:
    """Whether the op ``hardmine.ops.<name>`` can run on CUDA devices in this build."""
    compiled = "triplet_loss" if name == "sct_loss" else name
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"hardmine::{compiled}", "CUDA")


def selection_options() -> list[dict[str, Any]]:
    """The selection options that all ops share: every kind of selection, and options that only some kinds use."""
    kinds = [
        {"positive": positive, "negative": negative}
        for positive in ("easiest", "hardest", "random")
        for negative in ("hardest", "easiest", "semihard", "random")
    ]
    return [
        *kinds,
        *({"similarity": similarity, "negative": "hardest"} for similarity in SIMILARITIES),
        *({"negative": "semihard", "semihard_fallback": fallback} for fallback in ("hardest", "easiest")),
        {"negative": "semihard", "semihard_margin": 0.1, "tie": "include"},
        {"negative": "hardest", "duplicate_threshold": 0.5},
        {"positive": "random", "negative": "hardest", "duplicate_threshold": 0.5},
    ]
