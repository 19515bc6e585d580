# SPDX-License-Identifier: Apache-2.0
"""The reference of the settings."""

import dataclasses

from orderflow.settings import Settings, variable


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
    return "\n".join(lines)
