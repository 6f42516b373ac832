"""Running a recipe: steps, scores, logs and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hardmine
from hardmine import ops
from hardmine.mining.embedding import embed_all
from hardmine.verification.verify import OpReport
from papers._extras import require
from papers._files import remove_drafts, save_json_lines
from papers.figures import EMBEDDINGS_FILE, diagram_rows, save_embeddings, similarities
from papers.recipes import Recipe, SmartTripletLoss, make_loss
from papers.recipes.sections import Triplets
from papers.training import checkpoint, result
from papers.training.data import TrainingData, plain_train_images
from papers.training.evaluate import evaluate
from papers.training.feeds import Batch, images_of, make_feed
from papers.training.folder import FolderLock, saved_run
from papers.training.logs import Logs
from papers.training.measures import EpochMeasures, triplet_similarities
from papers.training.network import inputs_of, make_network, make_optimizer
from papers.training.stopping import StopRequests

# The references of mining hold the matrix of similarities: half a gigabyte for this many images, in float64.
VERIFIED_LISTS = 8192
LOG = "log.jsonl"


@dataclass(frozen=True)
class RunOptions:
    """How to run a recipe. Except for `device`, no option changes the results.

    Attributes:
        verify_every: Number of calls of an op per check against its reference; 0 checks none.
        checkpoint_minutes: Minutes between checkpoints within an epoch. The end of every epoch also writes one.
        checkpoint_steps: Also write a checkpoint after this many steps within an epoch; 0 uses only the clock.
        tensorboard: Write events for TensorBoard.
        progress: Show a progress bar on stderr.
        workers: Number of processes that read images.
        device: Device to train on, such as "cuda". Devices differ in rounding. On a GPU, a training resumes with the
            same state, but bit for bit only if PyTorch's operations are deterministic.
    """

    verify_every: int = 100
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int = 0
    tensorboard: bool = False
    progress: bool = True
    workers: int = 0
    device: str = "cpu"


class Trainer:
    """Train a recipe in a separate folder. A training can be interrupted at any time and resumes bit for bit.

    From construction to the end of its run, it locks the folder against other trainers of this or other processes.

    Args:
        recipe: The recipe.
        data: The recipe's data, from :func:`papers.training.load_data`.
        folder: Folder of checkpoint, logs and result; it must exist.
        options: How to run the recipe.
        resume: Resume from the folder's checkpoint, or start if there is none.
        report: Called with the scores after every epoch.

    Raises:
        FileExistsError: The folder has a run and `resume` is False, or another process trains in it.
        ValueError: The checkpoint is damaged, or from another recipe or other data; the message names the differences.
        RecipeError: The recipe does not suit the data.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        folder: Path,
        options: RunOptions | None = None,
        *,
        resume: bool = False,
        report: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.recipe, self.data, self.folder = recipe, data, folder
        self.options = options or RunOptions()
        self._report = report
        self._path = folder / checkpoint.FILE
        self._about = {"name": data.name, "fingerprint": data.fingerprint}
        self._lock = FolderLock(folder)
        remove_drafts(folder)
        saved = saved_run(recipe, folder, resume, self._about)
        torch.manual_seed(recipe.seed)
        self._device = torch.device(self.options.device)
        # Initialized on the CPU, so that every device starts from the same weights.
        self.network = make_network(recipe, data).to(self._device)
        self.loss = make_loss(recipe.loss, data.train.labels).to(self._device)
        self._optimizer = make_optimizer(self.network, recipe.optimizer)
        self._feed = make_feed(recipe, data, self.network, self.loss, self.options.workers)
        self._measures = EpochMeasures()
        self.epoch, self._batch, self.step = 0, 0, 0
        self.rows: list[dict[str, Any]] = []  # the scores of every epoch so far, the first from before training
        self._seconds = 0.0  # of training, in finished epochs; excludes evaluation
        self._started: float | None = None
        self._verify = None
        if self.options.verify_every:
            self._verify = hardmine.verify(every=self.options.verify_every, save_dir=folder / "verify")
        self._feed_state: Mapping[str, Any] | None = None
        if saved is not None:
            self._load(saved)
        self._logs = Logs(
            folder,
            recipe.title,
            epochs=self.rows[-1]["epoch"] if self.rows else -1,
            step=self.step,
            diagrams=bool(recipe.evaluation.diagrams),
            tensorboard=self.options.tensorboard,
        )

    @property
    def report(self) -> hardmine.Report | None:
        """The totals of verification, including those from before an interruption; None without verification."""
        return self._verify and self._verify.report

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            The content of `result.json`; see :mod:`papers.training.result`.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after writing a checkpoint.
            FloatingPointError: The loss or an embedding is not finite: the training diverged.
            hardmine.VerificationError: A fused op disagrees with its reference.
        """
        schedule = self.recipe.schedule
        with StopRequests() as stop, ExitStack() as stack:
            stack.callback(self._lock.release)
            stack.callback(self._logs.close)
            bar = stack.enter_context(self._bar())
            if not self.rows:
                self._log(self._scores(last=False))
                self._save()
            while self.epoch < schedule.epochs:
                self._started = time.perf_counter()
                self._train_epoch(stop, bar)
                logged = self._feed.end()
                self._seconds, self._started = self._elapsed(), None
                self.epoch, self._batch = self.epoch + 1, 0
                self._finish_epoch(logged)
                self._save()
                self._stop_if(stop)
            return self._finish()

    def _train_epoch(self, stop: StopRequests, bar: Any) -> None:
        """Do the remaining steps of an epoch."""
        factor = self.recipe.schedule.lr_factor(self.epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        images = self.data.train.images
        if not isinstance(images, Tensor):
            images.set_epoch(self.epoch)
        with self._verifying(mining=True):
            state, self._feed_state = self._feed_state, None
            batches = self._feed.begin(self.epoch) if state is None else self._feed.resume(self.epoch, state)
        bar.total = self.recipe.schedule.epochs * len(batches)
        saved = time.monotonic()
        self.network.train()
        remaining = batches[self._batch :]
        loaded = images_of(images, remaining, self.options.workers)
        for batch, batch_images in zip(remaining, loaded, strict=True):
            with self._verifying():
                self._take_step(batch, batch_images)
            self._batch += 1
            self.step += 1
            bar.update(1)
            if self._batch == len(batches):
                break  # the scores come first, then the epoch's final checkpoint
            steps = self.options.checkpoint_steps
            due = time.monotonic() - saved > 60 * self.options.checkpoint_minutes
            if due or (steps and self.step % steps == 0) or stop.requested:
                self._save()
                saved = time.monotonic()
                self._stop_if(stop)

    def _take_step(self, batch: Batch, images: Tensor) -> None:
        labels = self.data.train.labels[batch.rows]
        has_diagram = self.step in self.recipe.evaluation.diagrams
        if has_diagram:
            before, diagram_images, diagram_labels = embed_all(self.network, images), images, labels
        images, labels = images.to(self._device), labels.to(self._device)
        embeddings = self.network(images)
        loss, per_triplet, triplets = self._loss(embeddings, labels, batch)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} in epoch {self.epoch + 1}, step {self.step}; optimizer.lr = "
                f"{self.recipe.optimizer.lr:g} may be too large"
            )
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._feed.observe(batch, None if per_triplet is None else per_triplet.cpu())
        detached = embeddings.detach()
        if triplets is None:
            chosen = ops.select_triplets(detached, labels)
            self._measures.add(value, chosen.positive_similarity, chosen.negative_similarity)
        else:
            self._measures.add(value, *triplet_similarities(detached, triplets))
        if has_diagram:
            with torch.no_grad():
                chosen = ops.select_triplets(before, diagram_labels)
                after = similarities(embed_all(self.network, diagram_images), chosen)
                self._logs.diagram(
                    diagram_rows(self.step, "before", *similarities(before, chosen))
                    + diagram_rows(self.step, "after", *after)
                )

    def _loss(self, embeddings: Tensor, labels: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The loss, the losses per triplet if the feed needs them, and the triplets if mined."""
        if not isinstance(self.loss, SmartTripletLoss):
            return self.loss(embeddings, labels), None, None
        if batch.triplets is not None:
            triplets = batch.triplets.triplets.to(self._device)
            return *self.loss(embeddings, triplets), triplets
        chosen = ops.select_triplets(embeddings.detach(), labels, **self.loss.selection)
        columns = [torch.arange(len(labels), device=self._device), chosen.positive_index, chosen.negative_index]
        triplets = torch.stack(columns, dim=1)
        triplets = triplets[(triplets >= 0).all(1)]
        if not len(triplets):  # no anchor has both a positive and a negative, so the batch has no loss
            return embeddings.sum() * 0, None, triplets
        return self.loss(embeddings, triplets)[0], None, triplets

    def _finish_epoch(self, logged: Mapping[str, float]) -> None:
        """Score the network after an epoch, and log it."""
        last = self.epoch == self.recipe.schedule.epochs
        due = last or self.epoch % self.recipe.evaluation.every == 0
        scores = self._scores(last) if due else {}
        self._log(scores | self._measures.means() | dict(logged))
        self._measures = EpochMeasures()

    def _scores(self, last: bool) -> dict[str, float]:
        return evaluate(
            self.network,
            self.data,
            self.recipe.evaluation,
            workers=self.options.workers,
            last=last,
            seed=self.recipe.seed,
        )

    def _log(self, measured: Mapping[str, float]) -> None:
        values = {name: None if math.isnan(value) else value for name, value in measured.items()}
        row = {"epoch": self.epoch, "step": self.step, "seconds": self._seconds, **values}
        self.rows.append(row)
        save_json_lines(self.folder / LOG, self.rows)  # all of them: after a resume, none is missing or twice
        self._logs.epoch(row)
        if self._report is not None:
            self._report(row)

    def _finish(self) -> dict[str, Any]:
        """Write the final files: embeddings, diagrams of both halves of the data, and the result."""
        evaluation = self.recipe.evaluation
        if evaluation.embeddings or evaluation.diagrams:
            train, test = (
                embed_all(self.network, images, num_workers=self.options.workers)
                for images in (plain_train_images(self.data), self.data.query.images)
            )
            if evaluation.embeddings:
                save_embeddings(
                    self.folder / EMBEDDINGS_FILE,
                    train=(train, self.data.train.labels),
                    test=(test, self.data.query.labels),
                )
            if evaluation.diagrams:
                for split, rows, part in (("train", train, self.data.train), ("test", test, self.data.query)):
                    chosen = ops.select_triplets(rows, part.labels)
                    found = (chosen.positive_similarity, chosen.negative_similarity)
                    self._logs.diagram(diagram_rows(self.step, "after", *found, split=split))
        content = result.make_result(self.recipe, self.data, self.rows, self.report, self.options.verify_every)
        result.save_result(self.folder, content)
        return content

    def _save(self) -> None:
        state = {
            "recipe": self.recipe.as_dict(),
            "data": self._about,
            "epoch": self.epoch,
            "batch": self._batch,
            "step": self.step,
            "seconds": self._elapsed(),
            "rows": self.rows,
            "measures": self._measures.state_dict(),
            "inputs": inputs_of(self.data),
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "loss": self.loss.state_dict(),
            "feed": self._feed.state_dict() if self._feed_state is None else self._feed_state,
            "random": checkpoint.random_state(),
            "verified": {name: vars(op) for name, op in self.report.ops.items()} if self.report else {},
        }
        checkpoint.save_checkpoint(self._path, state)

    def _load(self, saved: Mapping[str, Any]) -> None:
        self.epoch, self._batch, self.step = saved["epoch"], saved["batch"], saved["step"]
        self.rows, self._seconds = saved["rows"], saved["seconds"]
        self._measures.load_state_dict(saved["measures"])
        self.network.load_state_dict(saved["network"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.loss.load_state_dict(saved["loss"])
        self._feed_state = saved["feed"]
        if self.report is not None:
            self.report.ops.update({name: OpReport(**values) for name, values in saved["verified"].items()})
        checkpoint.set_random_state(saved["random"])

    def _stop_if(self, stop: StopRequests) -> None:
        if stop.requested:
            raise KeyboardInterrupt(f"a checkpoint of epoch {self.epoch + 1}, step {self.step} is in {self._path}")

    def _verifying(self, mining: bool = False) -> Any:
        too_large = (
            mining and isinstance(self.recipe.sampler, Triplets) and len(self.data.train.labels) > VERIFIED_LISTS
        )
        return nullcontext() if self._verify is None or too_large else self._verify

    def _bar(self) -> Any:
        return require("tqdm").tqdm(
            desc=self.recipe.title, unit="step", initial=self.step, disable=not self.options.progress, leave=False
        )

    def _elapsed(self) -> float:
        """Seconds of training so far."""
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)
