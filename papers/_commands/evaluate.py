"""`python -m papers evaluate RUN`: the scores of a trained network on the classes that are only retrieved."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hardmine.metrics import retrieval
from hardmine.mining.embedding import embed_all
from papers import training
from papers._commands.common import check_writable, integer_from
from papers._commands.train_recipe import add_data_arguments
from papers._files import save_json
from papers.figures import EMBEDDINGS_FILE, save_embeddings
from papers.recipes import Recipe
from papers.recipes.fields import msgspec
from papers.training.data import check_weights, plain_train_images
from papers.training.evaluate import evaluate
from papers.training.loading import read_run

FILE = "evaluation.json"
RANKED = ("map_at_r", "r_precision", "map", "mrr")


def run(arguments: Sequence[str]) -> int:
    """Load the network and the data of a run, and write and print the scores.

    Args:
        arguments: The words after `evaluate`.

    Returns:
        The exit status.
    """
    command = _parser()
    options = command.parse_args(arguments)
    try:
        recipe, network, epoch, weights = read_run(options.run)
        check_writable(command, options.run)
        needed = _without_initial_weights(recipe)
        data = training.load_data(needed, options.data, options.cache, progress=True, device=options.device)
        check_weights(recipe, weights, data.weights)
        network = network.to(options.device)
        scores = evaluate(network, data, recipe.evaluation, workers=options.workers, last=True, seed=recipe.seed)
        query = embed_all(network, data.query.images, num_workers=options.workers)
        gallery = {}
        if data.gallery is not data.query:
            rows = embed_all(network, data.gallery.images, num_workers=options.workers)
            gallery = {"ref_embeddings": rows, "ref_labels": data.gallery.labels}
        scores |= retrieval(query, data.query.labels, **gallery, metrics=RANKED, progress=False)
        if options.embeddings:
            train = embed_all(network, plain_train_images(data), num_workers=options.workers)
            save_embeddings(
                options.run / EMBEDDINGS_FILE, train=(train, data.train.labels), test=(query, data.query.labels)
            )
        save_json(options.run / FILE, {"recipe": recipe.as_dict(), "epoch": epoch, "data": data.name, "scores": scores})
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"papers evaluate: {error}", file=sys.stderr)
        return 1
    print(f"{recipe.title} on {data.name}, epoch {epoch}:")
    for name, score in scores.items():
        print(f"{name:>14} {score:.4f}")
    print(f"saved {f'{EMBEDDINGS_FILE} and ' if options.embeddings else ''}{FILE} in {options.run}")
    return 0


def _without_initial_weights(recipe: Recipe) -> Recipe:
    """The recipe without its file of initial weights, which nothing reads once a whole network was trained."""
    if recipe.network.frozen:
        return recipe
    return msgspec.structs.replace(recipe, network=msgspec.structs.replace(recipe.network, weights="imagenet"))


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python -m papers evaluate",
        description="Score a trained network on the classes that are only retrieved: Recall@K, NMI if the recipe has "
        f"it, MAP@R, R-precision, mAP and MRR. They are printed, and saved in the run's {FILE}.",
    )
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run, the --output of train")
    add_data_arguments(command)
    command.add_argument(
        "--workers", type=integer_from(0), default=0, metavar="N", help="number of processes that read images"
    )
    command.add_argument(
        "--embeddings",
        action="store_true",
        help=f"also save all embeddings in {EMBEDDINGS_FILE}, for plot",
    )
    return command
