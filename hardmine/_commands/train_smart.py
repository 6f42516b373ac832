"""`python -m hardmine train --method smart`: training on mined triplets beside random ones, a line an epoch."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from hardmine import VerificationError, curves, train_smart
from hardmine._commands.common import classes_line, load_split
from hardmine._extras import require
from hardmine._files import save_csv, save_json

FILES = ("smart_epochs.csv", "smart_results.json", "smart_mining.png")
HEADER = f"""\
{"":>5}{"smart mining: triplets of the whole training set":^66}{"random triplets":>22}
{"epoch":>5}{"error":>8}{"kappa":>8}{"mined":>8}{"embedding":>13}{"lists, triplets":>17}{"Recall@1":>12}\
{"error":>11}{"Recall@1":>11}
{"":>5}{"":>8}{"":>8}{"":>8}{"share of the epoch's time":>30}"""


def run(command: argparse.ArgumentParser, options: argparse.Namespace, settings: train_smart.SmartSettings) -> int:
    """Check everything that can be checked, then train; keep the results of every epoch as soon as they are there."""
    for module in ("matplotlib.figure", "tqdm"):  # needed at the end, or late
        require(module)
    split = load_split(command, options)
    try:
        comparison = train_smart.SmartComparison(split, settings, save_dir=options.output)
    except ValueError as error:
        command.error(str(error))

    print(f"\n{_work(settings)}\n{classes_line(split)}; Recall@1 before training {comparison.recall_before:.3f}\n")
    print(HEADER, flush=True)
    results: list[train_smart.EpochResult] = []
    status = 0
    try:
        for smart, random in comparison.epochs():
            results += [smart, random]
            print(_line(smart, random), flush=True)
            _save_tables(options.output, comparison, results)
    except KeyboardInterrupt:
        done = len(results) // 2
        print(f"interrupted: {done} of {settings.epochs} epochs are finished and kept", file=sys.stderr)
        status = 130
    except (FloatingPointError, VerificationError) as error:
        print(f"hardmine train: {error}", file=sys.stderr)
        status = 1
    if results:
        print(f"\n{_summary(comparison, results)}")
        _save_tables(options.output, comparison, results)  # again, in case the interrupt came while saving
        title = f"Smart mining, {split.name}: {settings.batch_size * settings.batches_per_epoch:,} triplets an epoch"
        curves.plot_smart_mining(results, settings.target_error, options.output / FILES[2], title=title)
        print(f"saved {', '.join(FILES[:-1])} and {FILES[-1]} in {options.output}")
    return status


def _work(settings: train_smart.SmartSettings) -> str:
    triplets = f"{settings.batches_per_epoch} batches of {settings.batch_size} triplets"
    return f"{settings.epochs} epochs of {triplets}, {settings.embedding_dim} dimensions, ratio loss + global loss"


def _line(smart: train_smart.EpochResult, random: train_smart.EpochResult) -> str:
    record = smart.record
    kappa = "-" if record.kappa is None else f"{record.kappa:.2f}"
    return (
        f"{record.epoch:>5}{record.error:>8.1%}{kappa:>8}{record.mined_share:>8.0%}{record.embedding_share:>13.1%}"
        f"{record.mining_share:>17.2%}{smart.recall:>12.3f}{random.record.error:>11.1%}{random.recall:>11.3f}"
    )


def _summary(comparison: train_smart.SmartComparison, results: list[train_smart.EpochResult]) -> str:
    """What mining brought, what it cost, and what was verified."""
    by_run = {name: [result for result in results if result.run == name] for name in ("smart", "random")}
    lines = []
    for name, own in by_run.items():
        best = max(own, key=lambda result: result.recall)
        seconds = sum(result.record.epoch_seconds for result in own)
        lines.append(
            f"{name}: Recall@1 {own[-1].recall:.3f} in the end, {best.recall:.3f} at best (epoch {best.record.epoch}); "
            f"{seconds:.0f} s of training"
        )
    if comparison.report is None:
        return "\n".join([*lines, "not verified"])
    return "\n".join([*lines, comparison.report.summary()])


def _save_tables(output: Path, comparison: train_smart.SmartComparison, results: list[train_smart.EpochResult]) -> None:
    rows = [result.row() for result in results]
    save_csv(output / FILES[0], list(rows[0]), rows)
    content = {
        "data": comparison.split.name,
        "settings": dataclasses.asdict(comparison.settings),
        "recall_before": comparison.recall_before,
        "epochs": rows,
    }
    save_json(output / FILES[1], content)
