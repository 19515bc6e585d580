# SPDX-License-Identifier: Apache-2.0
"""The reference of the settings."""

import dataclasses
from collections.abc import Iterator

from orderflow.settings import Settings, variable
from orderflow.telemetry.tracing.variables import VARIABLES


def settings() -> str:
    """The page with every setting, its default and its meaning."""
    lines = [
        "# Settings",
        "",
        "Environment variables. Times are in seconds and sizes in bytes. A process that finds something wrong lists",
        "all of it and ends with exit code 2. Secrets are masked wherever settings are printed.",
        "",
        "| Variable | Default | Meaning |",
        "|---|---|---|",
    ]
    for field in dataclasses.fields(Settings):
        default = "" if field.default == "" else f"`{field.default}`"
        secret = " Secret." if field.metadata["secret"] else ""
        lines.append(f"| `{variable(field.name)}` | {default} | {field.metadata['meaning']}{secret} |")
    return "\n".join([*lines, *_standard()])


def _standard() -> Iterator[str]:
    yield from (
        "",
        "## The standard variables of OpenTelemetry",
        "",
        "| Variable | Default | Meaning |",
        "|---|---|---|",
    )
    for name, (default, meaning) in VARIABLES.items():
        yield f"| `{name}` | {default and f'`{default}`'} | {meaning} |"
