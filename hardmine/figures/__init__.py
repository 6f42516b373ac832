"""Figures of trainings and of what they learned, and the files that they are drawn from.

:mod:`hardmine.figures.formats` describes the files.
"""

from hardmine.figures.embeddings import EmbeddingSet, read_embeddings, save_embeddings
from hardmine.figures.formats import DIAGRAMS, EMBEDDINGS_FILE, EPOCHS, GROUPS
from hardmine.figures.reading import Diagrams, History, Step, Triplets, read_diagrams, read_groups, read_histories
from hardmine.figures.records import Records, diagram_rows, similarities

__all__ = [
    "DIAGRAMS",
    "EMBEDDINGS_FILE",
    "EPOCHS",
    "GROUPS",
    "Diagrams",
    "EmbeddingSet",
    "History",
    "Records",
    "Step",
    "Triplets",
    "diagram_rows",
    "read_diagrams",
    "read_embeddings",
    "read_groups",
    "read_histories",
    "save_embeddings",
    "similarities",
]
