# SPDX-License-Identifier: Apache-2.0
"""Builds the telemetry of one process: metrics, traces, logs and the telemetry server."""

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from orderflow.instrumentation import Area, Instrumentation
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.settings import Settings
from orderflow.telemetry import logging
from orderflow.telemetry.fanout import fan_out
from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.recorder import Recorder
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.metrics.service_recorder import ServiceRecorder
from orderflow.telemetry.server import TelemetryServer
from orderflow.telemetry.tracing import semconv
from orderflow.telemetry.tracing.spans import Attributes
from orderflow.telemetry.tracing.switch import pipeline_if_enabled
from orderflow.telemetry.tracing.tracer import Tracing
from orderflow.version import VERSION

if TYPE_CHECKING:
    from orderflow.telemetry.tracing.sdk import Pipeline

IdleSeconds = Callable[[], Mapping[str, float]]


class Telemetry:
    """The telemetry of one process. ``instrumentation`` receives all reports; ``server`` responds from the start.

    ``pipeline`` exports the spans; it is None when tracing is off.
    """

    def __init__(
        self,
        *,
        process_name: str,
        server: TelemetryServer,
        metrics_registry: MetricRegistry,
        pipeline: "Pipeline | None",
        tracing: Tracing,
        recorder: Recorder,
    ) -> None:
        self.server = server
        self.pipeline = pipeline
        listeners = (tracing, recorder, ServiceRecorder(metrics_registry, tracing))
        self.instrumentation: Instrumentation = fan_out(Instrumentation, listeners)
        self._loops = metrics_registry.scraped(catalogue.LOOP_IDLE)
        metrics_registry.gauge(catalogue.BUILD, process_name, VERSION, platform.python_version()).set(1)
        metrics_registry.gauge(catalogue.READY).set_function(lambda: float(not server.not_ready()))

    @classmethod
    def start(
        cls,
        settings: Settings,
        process_name: str,
        environ: Mapping[str, str],
        *,
        areas: Collection[Area] = (),
        queues: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> Self:
        """Configure logging, begin to serve the telemetry port and to export spans.

        The metrics of the ``areas`` are exported at 0 from now on, for the ``queues`` that the process consumes.
        Raises OSError when the port is taken.
        """
        logging.configure(process_name, level=settings.log_level)
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        metrics_registry = MetricRegistry(registry, given={"queue": queues, "role": _roles(areas)})
        pipeline = pipeline_if_enabled(process_name, environ, registry=metrics_registry)
        recorder = Recorder(metrics_registry, clock or SystemClock())
        recorder.watch(queues)
        telemetry = cls(
            process_name=process_name,
            server=TelemetryServer(settings.telemetry_host, settings.telemetry_port, registry),
            metrics_registry=metrics_registry,
            pipeline=pipeline,
            tracing=Tracing(
                pipeline.spans if pipeline else None,
                sampling=pipeline.sampling if pipeline else None,
                server=broker_attributes(settings.amqp_url),
                batches=pipeline is not None and pipeline.sampling.samples,
            ),
            recorder=recorder,
        )
        metrics_registry.prepare({*areas, "process"})
        telemetry.server.start()
        return telemetry

    def watch(self, *, idle_seconds: IdleSeconds, stalled: IdleSeconds, not_ready: Callable[[], Sequence[str]]) -> None:
        """Report from now on the idle seconds of each loop, the stalled loops, and why the process is not ready."""
        self._loops.read = idle_seconds
        self.server.stalled = stalled
        self.server.not_ready = not_ready

    def shutdown(self, *, timeout_seconds: float) -> None:
        """Export the last spans, for at most that long, and stop the server."""
        if self.pipeline is not None:
            self.pipeline.shutdown(timeout_seconds=timeout_seconds)
        self.server.stop()


def broker_attributes(amqp_url: str) -> Attributes:
    """The span attributes of the broker; never its user or password."""
    parts = urlsplit(amqp_url)
    if not parts.hostname:
        return {}
    return {semconv.SERVER_ADDRESS: parts.hostname, semconv.SERVER_PORT: parts.port or 5672}


def _roles(areas: Collection[Area]) -> list[str]:
    roles: dict[Area, str] = {"publishing": "publish", "consuming": "consume"}
    return [role for area, role in roles.items() if area in areas]
