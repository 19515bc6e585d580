# SPDX-License-Identifier: Apache-2.0
"""The CPU time of process trees: a server with all its workers, a service with all its children."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_MAX_READINGS = 50
"""On a machine where processes end all the time the last reading is taken."""


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    ticks: int
    """Its own CPU time, and that of its ended children; whole ticks, so that the sum of many is exact."""


def cpu_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """The CPU seconds that each tree has used so far, by the name of its root, which is given as a pid.

    A child that has ended counts once its parent has waited for it. Raises ProcessLookupError when a root is gone.
    """
    processes = _processes()
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    return {name: _of_tree(root, processes, children) for name, root in roots.items()}


def _of_tree(root: int, processes: Mapping[int, _Process], children: Mapping[int, list[int]]) -> float:
    if root not in processes:
        raise ProcessLookupError(f"process {root} has ended")
    ticks, open_pids = 0, [root]
    while open_pids:
        pid = open_pids.pop()
        ticks += processes[pid].ticks
        open_pids += children.get(pid, [])
    return ticks / _TICKS_PER_SECOND


def _processes() -> dict[int, _Process]:
    """Every process of this machine, read so that none is missed or counted twice because it ended meanwhile."""
    for _ in range(_MAX_READINGS):
        listed = _pids()
        found = {pid: process for pid in listed if (process := _read(pid)) is not None}
        if listed == found.keys() and listed <= _pids():
            break
    return found


def _pids() -> set[int]:
    return {int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()}


def _read(pid: int) -> _Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain spaces
    return _Process(int(fields[1]), sum(map(int, fields[11:15])))  # utime, stime, cutime, cstime
