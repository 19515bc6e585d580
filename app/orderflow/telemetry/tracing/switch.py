# SPDX-License-Identifier: Apache-2.0
"""Decides whether a process traces. Needs no OpenTelemetry library, so without tracing the SDK is not imported."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from orderflow.telemetry.metrics.registry import MetricRegistry
    from orderflow.telemetry.tracing.sdk import Pipeline

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_SECONDS = 5
"""How long a command waits for the collector at its end."""


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

    return start_pipeline(process_name, environ, registry=registry)


@contextmanager
def command_provider(process_name: str, environ: Mapping[str, str]) -> "Iterator[TracerProvider | None]":
    """The SDK's provider for the spans of a command, which are exported at its end; None when it does not trace."""
    if not tracing_enabled(environ):
        yield None
        return
    from orderflow.telemetry.tracing.sdk import shut_down, start_provider

    provider = start_provider(process_name)
    try:
        yield provider
    finally:
        shut_down(provider, timeout_seconds=_FLUSH_SECONDS)
