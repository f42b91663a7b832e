"""Files that are written whole or not at all.

A reader of ``path`` sees either the old content or the new one, also when the process is killed half-way: the content
goes to a temporary file in the same folder, is flushed to the disk, and then takes the name in one step.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

T = TypeVar("T")


def expanded(value: T) -> T:
    """A path with ``~`` as the home folder, as in a shell, also in lists and dicts; anything else as it is."""
    changed: Any = value
    if isinstance(value, (list, tuple)):
        changed = type(value)(map(expanded, value))
    elif isinstance(value, dict):
        changed = {key: expanded(item) for key, item in value.items()}
    elif isinstance(value, (str, Path)) and str(value).startswith("~"):
        changed = type(value)(os.path.expanduser(str(value)))  # Path's own method raises where there is no such user
    return cast(T, changed)


def write_atomically(path: str | Path, writer: Callable[[BinaryIO], object]) -> Path:
    """Let ``writer`` fill a new file, then give it the name ``path``; returns ``path``.

    ``writer`` gets a binary file open for writing, and need not close it: ``lambda file: np.save(file, array)``. The
    folder is made when it is missing. When ``writer`` raises, the error goes on to the caller, the temporary file is
    removed, and whatever stood at ``path`` is untouched.
    """
    path = expanded(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_for(path))
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:  # a full disk, say
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)
    return path


def write_bytes_atomically(path: str | Path, data: bytes | memoryview) -> Path:
    """Make ``path`` hold exactly ``data``, as `write_atomically` does; returns ``path``."""
    return write_atomically(path, lambda file: file.write(data))


def write_json(path: str | Path, content: object) -> Path:
    """Write ``content`` as indented JSON in UTF-8 to ``path``, as `write_atomically` does; returns ``path``."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # What UTF-8 cannot say, of a file name in another encoding, stays escaped, as JSON does it, too.
    return write_bytes_atomically(path, text.encode(errors="backslashreplace") + b"\n")


def nearest_existing(path: str | Path) -> Path:
    """The path, or the nearest above it that is there."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


def visible(folder: str | Path, pattern: str) -> list[Path]:
    """What matches in a folder, in order. Hidden files are no data: macOS puts a ``._name`` beside many a file."""
    return sorted(path for path in Path(folder).glob(pattern) if path.name[0] != ".")


def remove_temporaries(folder: str | Path, name: str = "*") -> None:
    """Remove what killed processes left of half-written files called ``name``, a pattern; for when none is writing."""
    for stale in Path(folder).glob(f".{name}.*.tmp"):
        stale.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path, busy: Exception) -> Iterator[None]:
    """Hold the lock file ``path``, or raise ``busy`` where another process does.

    The system lets go when this process dies. The file stays: to remove it is to race with who opens it.
    """
    path = expanded(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise busy from error
            except OSError:
                pass  # some network file systems have no locks
        yield


def _mode_for(path: Path) -> int:
    """The permissions an ordinary ``open(path, "wb")`` would have left: mkstemp's own are for the owner alone."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power cut, where the system lets a folder be opened and synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
