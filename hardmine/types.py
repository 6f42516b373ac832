"""The names of the options' values."""

from __future__ import annotations

from typing import Literal, TypeAlias

Similarity: TypeAlias = Literal["cosine", "dot", "euclidean"]
DistanceSimilarity: TypeAlias = Literal["cosine", "euclidean"]
PositiveRule: TypeAlias = Literal["easiest", "hardest", "random"]
NegativeRule: TypeAlias = Literal["hardest", "easiest", "semihard", "random"]
TupletPositiveRule: TypeAlias = Literal["easiest", "hardest", "all"]
SemihardFallback: TypeAlias = Literal["hardest", "easiest"]
TieRule: TypeAlias = Literal["exclude", "include"]
Term: TypeAlias = Literal["nca", "hinge", "soft_margin", "sct"]
Preset: TypeAlias = Literal["paper", "code2020", "code2021"]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
BatchAllReduction: TypeAlias = Literal["mean", "mean_active", "sum"]
