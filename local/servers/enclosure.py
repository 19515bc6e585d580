# SPDX-License-Identifier: Apache-2.0
"""Runs a program of a root folder as an unprivileged user, in namespaces that end with it.

The mounts are private, the root is read-only, only ``/data`` (a folder of the caller) is kept; processes that the
program leaves behind (such as epmd) die with it, however it ends. The network is the host's.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from local.servers.roots import User

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/data",
    "LANG": "C.UTF-8",
}
"""What an enclosed program sees at least; the caller's own environment stays outside."""

_MOUNT_AND_RUN = """
set -eu
root=$1 data=$2 uid=$3 gid=$4
shift 4
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
for folder in dev run tmp; do mount -t tmpfs -o mode=1777 tmpfs "$root/$folder"; done
mkdir -m 1777 "$root/dev/shm"
for device in null zero full random urandom; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mount --bind "$data" "$root/data"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid="$uid" --regid="$gid" --clear-groups --no-new-privs --pdeathsig KILL -- "$@"
"""


def enclosed(argv: Sequence[str], *, root: Path, data: Path, user: User) -> list[str]:
    """The command line that runs ``argv`` in ``root`` with ``data`` as its ``/data``; needs root on the host.

    The outer process answers SIGKILL by ending everything inside. SIGTERM and SIGINT to its process group reach the
    program; any other signal must go to ``inner_pid``.
    """
    namespaces = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--"]
    script = ["sh", "-c", _MOUNT_AND_RUN, "enclosure"]
    return [*namespaces, *script, str(root), str(data), str(user.uid), str(user.gid), *argv]


def inner_pid(outer: int) -> int:
    """The host's pid of the program that an enclosing process runs; raises ProcessLookupError when it is gone.

    The enclosing process is the supervisor's child, or the only child of it.
    """
    try:
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    except FileNotFoundError:
        children = []
    if not children:
        raise ProcessLookupError(f"nothing runs inside process {outer}")
    return int(children[0])


def own(folder: Path, user: User) -> None:
    """Make ``folder`` when it is absent, and give it and its present content to ``user`` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    os.chown(folder, user.uid, user.gid)
    for path in folder.iterdir():
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
