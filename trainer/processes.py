"""Several processes of one run, as Lightning's launcher or torchrun start them: who does what."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

_LOOK_EVERY_S = 0.5


def is_first() -> bool:
    """Whether this process is the only one of its run, or the one that writes what the run leaves."""
    return not any(int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Let the processes of a run prepare the same files one after the other: those who come later find them there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".preparing").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def wait_for(path: Path, *, seconds: float = 24 * 3600) -> None:
    """Wait until the first process has left a file.

    Raises:
        FoldsightError: it has not come after so long.
    """
    began = time.monotonic()
    while not path.exists():
        if time.monotonic() - began > seconds:
            raise FoldsightError(f"{path} has not come from the run's first process; see what became of that one")
        time.sleep(_LOOK_EVERY_S)


def together(value: Tensor) -> tuple[Tensor, int]:
    """The sum of a tensor over all processes that train together, and their number; no gradient passes."""
    import torch  # noqa: PLC0415  not every command that counts processes needs it

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value, 1
    whole = value.detach().clone()
    torch.distributed.all_reduce(whole)
    return whole, torch.distributed.get_world_size()
