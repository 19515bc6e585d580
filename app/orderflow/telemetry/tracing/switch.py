# SPDX-License-Identifier: Apache-2.0
"""Decides whether a process traces. Needs no OpenTelemetry library, so without tracing the SDK is not imported."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orderflow.version import VERSION

if TYPE_CHECKING:
    from orderflow.telemetry.metrics.registry import MetricRegistry
    from orderflow.telemetry.tracing.sdk import Pipeline

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracing_enabled(environ: Mapping[str, str]) -> bool:
    """True when an endpoint is set and neither the SDK nor the exporter is switched off.

    The SDK's own default is to export to localhost:4318, even when no collector listens there.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return False
    return any(environ.get(name) for name in ENDPOINTS)


def pipeline_if_enabled(
    process_name: str, environ: Mapping[str, str], *, registry: "MetricRegistry | None" = None
) -> "Pipeline | None":
    """A started pipeline for the spans of this process; None when the process does not trace."""
    if not tracing_enabled(environ):
        return None
    from orderflow.telemetry.tracing.sdk import start_pipeline

    return start_pipeline(process_name, VERSION, environ, registry=registry)
