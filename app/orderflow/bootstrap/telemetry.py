# SPDX-License-Identifier: Apache-2.0
"""Starts the telemetry of a process, or reports that its port is taken."""

import sys
from collections.abc import Collection, Mapping, Sequence

from orderflow.instrumentation import Area
from orderflow.settings import Settings
from orderflow.telemetry.setup import Telemetry


def start_telemetry(
    settings: Settings,
    name: str,
    environ: Mapping[str, str],
    *,
    areas: Collection[Area] = (),
    queues: Sequence[str] = (),
) -> Telemetry | None:
    """The telemetry of the process; None, after a line on stderr, when its port is taken."""
    try:
        return Telemetry.start(settings, name, environ, areas=areas, queues=queues)
    except OSError as error:
        sys.stderr.write(f"ORDERFLOW_TELEMETRY_PORT={settings.telemetry_port}: {error}\n")
        return None
