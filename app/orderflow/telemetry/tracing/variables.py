# SPDX-License-Identifier: Apache-2.0
"""The standard variables of OpenTelemetry that are heeded here. Source: the specification's list of SDK variables."""

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)

VARIABLES: Mapping[str, tuple[str, str]] = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("", "Where spans go, `/v1/traces` is appended. Without it nothing is traced."),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("", "The same for spans only; taken as it is."),
    "OTEL_EXPORTER_OTLP_HEADERS": ("", "Sent along, for example `authorization=Bearer%20…`."),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("none", "`gzip`, `deflate` or `none`."),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("10", "Seconds for one export."),
    "OTEL_EXPORTER_OTLP_CERTIFICATE": ("", "The file with the certificate authority of the receiver."),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/protobuf", "No other is spoken; another one is warned about."),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf", "The same for spans only."),
    "OTEL_SDK_DISABLED": ("false", "`true`: nothing is traced."),
    "OTEL_TRACES_EXPORTER": ("otlp", "`none`: nothing is traced."),
    "OTEL_TRACES_SAMPLER": (
        "parentbased_always_on",
        "Decided at the HTTP request: `always_on`, `always_off`, `traceidratio`, or `parentbased_` and one of these.",
    ),
    "OTEL_TRACES_SAMPLER_ARG": ("1.0", "The part of the requests that is traced, for `traceidratio`."),
    "OTEL_SERVICE_NAME": ("the name of the process", "What spans call the process."),
    "OTEL_RESOURCE_ATTRIBUTES": ("", "More about the process, for example `deployment.environment.name=shop`."),
    "OTEL_BSP_SCHEDULE_DELAY": ("1000", "Milliseconds between two exports."),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("32768", "Spans that may wait; more are dropped and counted."),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("1024", "Most spans in one export."),
}
"""Name to default and meaning."""


def number(environ: Mapping[str, str], name: str) -> int:
    """The whole number above 0 that a variable gives; its default when it gives none, logged when it makes no sense."""
    text, default = environ.get(name, "").strip(), int(VARIABLES[name][0])
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    if text:
        log.warning("variable.ignored", extra={"variable": name, "value": text, "used": default})
    return default
