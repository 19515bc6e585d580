# SPDX-License-Identifier: Apache-2.0
"""The reference of the settings."""

import dataclasses
from collections.abc import Iterator, Mapping

from orderflow.settings import Settings, variable


def settings() -> str:
    """The page with every setting, its default and its meaning."""
    lines = [
        "# Settings",
        "",
        "Environment variables. Times are in seconds and sizes in bytes. A process lists all wrong settings",
        "and ends with exit code 2. Secrets are masked wherever settings are printed.",
        "",
        "| Variable | Default | Meaning |",
        "|---|---|---|",
    ]
    for field in dataclasses.fields(Settings):
        default = "" if field.default == "" else f"`{field.default}`"
        secret = " Secret." if field.metadata["secret"] else ""
        lines.append(f"| `{variable(field.name)}` | {default} | {field.metadata['meaning']}{secret} |")
    return "\n".join([*lines, *_standard()])


VARIABLES: Mapping[str, tuple[str, str]] = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": (
        "",
        "The endpoint for spans; `/v1/traces` is appended. Without an endpoint nothing is traced.",
    ),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("", "The endpoint for spans; nothing is appended. Overrides the one above."),
    "OTEL_EXPORTER_OTLP_HEADERS": ("", "Headers of each export, for example `authorization=Bearer%20…`."),
    "OTEL_SDK_DISABLED": ("false", "`true`: nothing is traced."),
    "OTEL_TRACES_EXPORTER": ("otlp", "`none`: nothing is traced."),
    "OTEL_TRACES_SAMPLER": (
        "parentbased_always_on",
        "Applied to the HTTP request: `always_on`, `always_off`, `traceidratio`, or `parentbased_` and one of these.",
    ),
    "OTEL_TRACES_SAMPLER_ARG": ("1.0", "The ratio of requests that are traced, for `traceidratio`."),
    "OTEL_SERVICE_NAME": ("the name of the process", "The service name of the spans."),
    "OTEL_RESOURCE_ATTRIBUTES": ("", "More resource attributes, for example `deployment.environment.name=production`."),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("8192", "Spans that may wait for export; more are dropped and counted."),
    "OTEL_SPAN_LINK_COUNT_LIMIT": ("1024", "Links of a span; a batch has one for each sampled message."),
}
"""The most useful variables, and those whose default differs from the SDK's: name to default and meaning."""


def _standard() -> Iterator[str]:
    yield from (
        "",
        "## The standard variables of OpenTelemetry",
        "",
        "Traces are exported with OTLP over HTTP (protobuf). The OpenTelemetry SDK and its exporter read all their",
        "[standard variables](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). The",
        "most useful ones, and those whose default differs from the SDK's:",
        "",
        "| Variable | Default | Meaning |",
        "|---|---|---|",
    )
    for name, (default, meaning) in VARIABLES.items():
        yield f"| `{name}` | {default and f'`{default}`'} | {meaning} |"
