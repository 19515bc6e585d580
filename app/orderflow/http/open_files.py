# SPDX-License-Identifier: Apache-2.0
"""Makes sure that the process may open a file for each connection."""

import logging
import resource

log = logging.getLogger(__name__)

_OTHER_FILES = 128
"""Files of the process beside its connections: to the database, the broker, and of telemetry."""


def connections_allowed(wanted: int) -> int:
    """The number of connections that the process has files for, ``wanted`` at most; raises its soft limit for them.

    Without files the server could not accept a connection, and so could not close another one in its place.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [limit for limit in (wanted + _OTHER_FILES, hard) if limit != resource.RLIM_INFINITY]
    if soft != resource.RLIM_INFINITY and soft < min(limits):
        soft = min(limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OTHER_FILES))
    if allowed < wanted:
        log.warning("http.few_files", extra={"connections": allowed, "wanted": wanted, "open_files": soft})
    return allowed
