# SPDX-License-Identifier: Apache-2.0
"""Runs a program from a root folder as an unprivileged user, in namespaces that end with it.

The mounts are private and the root is read-only. Only ``/data`` (a folder of the caller) is kept. Processes that the
program leaves behind (such as epmd) are killed when it ends. The network is the host's.
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
"""The base environment of an enclosed program; the caller's own environment is not passed on."""

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

    SIGKILL to the outer process kills everything inside. SIGTERM and SIGINT to its process group reach the
    program; any other signal must go to ``inner_pid``.
    """
    namespaces = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--"]
    script = ["sh", "-c", _MOUNT_AND_RUN, "enclosure"]
    return [*namespaces, *script, str(root), str(data), str(user.uid), str(user.gid), *argv]


def inner_pid(outer: int) -> int:
    """The host's pid of the program that an enclosing process runs; raises ProcessLookupError when it is gone.

    ``outer`` is the process that was started with the command line of ``enclosed``; the program is its only child.
    """
    try:
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    except FileNotFoundError:
        children = []
    if not children:
        raise ProcessLookupError(f"nothing runs inside process {outer}")
    return int(children[0])


def own(folder: Path, user: User) -> None:
    """Create ``folder`` if it is absent, and make ``user`` the only owner of it and of the files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    os.chown(folder, user.uid, user.gid)
    for path in folder.iterdir():
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
