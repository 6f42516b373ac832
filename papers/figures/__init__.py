"""Figures of trainings and their embeddings, as in the papers.

Each figure is a PNG, with a data file of the same stem that holds the plotted data. `python -m papers plot` makes them
from the files that trainings write; :mod:`papers.figures.formats` describes these files. Most functions take several
runs with different seeds per name in the legend, and show their mean and standard deviation.

=========================== ======================= =========================================== ====================
function                    reads                   shows                                       in
=========================== ======================= =========================================== ====================
:func:`plot_triplet_steps`  diagrams.csv            moves of triplets in gradient steps         SCT, figure 5
:func:`plot_train_test`     diagrams.csv            triplets of training and other classes      SCT, figure 7
:func:`plot_vector_field`   nothing                 moves of triplets in theory                 SCT, figure 2
:func:`plot_training`       epochs.csv              share of hard triplets, Recall@1            SCT, figure 6
:func:`plot_within_class`   embeddings.safetensors  similarities within a class                 EP, figure 2
:func:`plot_nearest_train`  embeddings.safetensors  similarity to the nearest training sample   EP, figure 3
:func:`plot_tsne`           embeddings.safetensors  t-SNE                                       EP, figure 6
:func:`plot_group_size`     groups.csv              Recall@1 against images per class           EP, figure 4
=========================== ======================= =========================================== ====================
"""

from papers.figures.embeddings import EmbeddingSet, read_embeddings, save_embeddings
from papers.figures.formats import DIAGRAMS, EMBEDDINGS_FILE, EPOCHS, GROUPS
from papers.figures.group_size import plot_group_size
from papers.figures.nearest_train import plot_nearest_train
from papers.figures.reading import Diagrams, History, Step, Triplets, read_diagrams, read_groups, read_histories
from papers.figures.records import Records, diagram_rows, similarities
from papers.figures.train_test import plot_train_test
from papers.figures.training import plot_training
from papers.figures.triplet_steps import plot_triplet_steps
from papers.figures.tsne import plot_tsne
from papers.figures.vector_field import plot_vector_field
from papers.figures.within_class import plot_within_class

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
    "plot_group_size",
    "plot_nearest_train",
    "plot_train_test",
    "plot_training",
    "plot_triplet_steps",
    "plot_tsne",
    "plot_vector_field",
    "plot_within_class",
    "read_diagrams",
    "read_embeddings",
    "read_groups",
    "read_histories",
    "save_embeddings",
    "similarities",
]
