"""The folder of a run: one process at a time trains in it, and existing files are not overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from papers.recipes import Recipe
from papers.training import checkpoint, result

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl: Any = None

FILE = ".lock"


class FolderLock:
    """Lock a folder against other processes until release, garbage collection or the end of the process.

    If the system or the disk has no such locks, nothing is locked. The empty lock file stays in the folder.

    Raises:
        FileExistsError: Another process, or another training in this process, has locked the folder.
        OSError: The folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / FILE).open("ab")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise FileExistsError(
                f"another process is training in {folder}: wait until it ends, or choose another folder"
            ) from None
        except OSError:  # the disk has no locks
            pass

    def release(self) -> None:
        """Release the lock, even while image-reading workers, which share the open file, are still exiting."""
        if fcntl is not None and not self._file.closed:
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


def check_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Refuse, before the data are read, a folder in which :class:`papers.training.Trainer` would not train.

    Raises:
        FileExistsError: The folder has a run and `resume` is False, or another process trains in it.
        ValueError: The checkpoint is damaged, or from another recipe.
    """
    lock = FolderLock(folder)
    try:
        saved_run(recipe, folder, resume)
    finally:
        lock.release()


def saved_run(
    recipe: Recipe, folder: Path, resume: bool, data: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """The checkpoint to resume from, or None if there is none.

    Args:
        recipe: The recipe.
        folder: The folder.
        resume: Whether to resume.
        data: Name and fingerprint of the data; None if not known yet.

    Raises:
        FileExistsError: The folder has a run and `resume` is False.
        ValueError: The checkpoint is damaged, or from another recipe or other data; the message names the differences.
    """
    path = folder / checkpoint.FILE
    if path.exists():
        if not resume:
            raise FileExistsError(f"{path} already exists: resume that run, or choose another folder")
        saved = checkpoint.load_checkpoint(path)
        checkpoint.check_same_run(path, saved, recipe.as_dict(), saved["data"] if data is None else data)
        return saved
    if not resume and (folder / result.FILE).exists():
        raise FileExistsError(f"{folder / result.FILE} already exists, from a finished run: choose another folder")
    return None
