"""The folder of a run: one process at a time trains in it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl: Any = None

FILE = ".lock"


class FolderLock:
    """Keeps other processes out of a folder until it is released, is garbage, or the process ends, however it does.

    Where the system, or the disk, has no such locks, nothing is locked. The file, which is empty, stays.

    Raises:
        FileExistsError: Another process, or another training of this one, has the folder.
        OSError: The folder cannot be written to.
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
                f"another process trains in {folder}: wait until it has ended, or choose another folder"
            ) from None
        except OSError:  # the disk has no locks
            pass

    def release(self) -> None:
        """Let others in, also while processes that read images, which share the open file, are still ending."""
        if fcntl is not None and not self._file.closed:
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()
