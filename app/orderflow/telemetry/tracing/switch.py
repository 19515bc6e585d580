# SPDX-License-Identifier: Apache-2.0
"""Whether a process traces. Needs no OpenTelemetry library, so a process without tracing imports none of the SDK."""

from collections.abc import Mapping

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracing_enabled(environ: Mapping[str, str]) -> bool:
    """True when an endpoint is set and neither the SDK nor the exporter is switched off.

    The SDK's own default is to export to localhost:4318, also when nobody listens there.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return False
    return any(environ.get(name) for name in ENDPOINTS)
