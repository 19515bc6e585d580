# SPDX-License-Identifier: Apache-2.0
"""Tracing whose spans stay in memory, where tests read them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self
from unittest.mock import patch

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.types import AttributeValue

from orderflow.telemetry.tracing.sdk import Pipeline
from orderflow.telemetry.tracing.spans import Attributes, Spans
from orderflow.telemetry.tracing.tracer import Tracing


@dataclass
class Traces:
    """Tracing, and the spans that it exported."""

    pipeline: Pipeline
    spans: Spans
    tracing: Tracing
    exporter: InMemorySpanExporter

    @classmethod
    def in_memory(cls, *, batches: bool = True, environ: Mapping[str, str] | None = None) -> Self:
        """Tracing whose edge sampler follows the given environment."""
        exporter = InMemorySpanExporter()
        with patch.dict(os.environ, environ or {}):  # the SDK reads the environment of the process
            pipeline = Pipeline(SimpleSpanProcessor(exporter), resource=Resource.get_empty(), environ={})
        spans = Spans(pipeline.inner)
        server: Attributes = {"server.address": "broker", "server.port": 5672}
        tracing = Tracing(spans, edge=pipeline.edge, server=server, batches=batches)
        return cls(pipeline, spans, tracing, exporter)

    @property
    def finished(self) -> Sequence[ReadableSpan]:
        """Every span that has ended."""
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """The ended spans with this name."""
        return [span for span in self.finished if span.name == name]


def attributes(span: ReadableSpan) -> Mapping[str, AttributeValue]:
    """The attributes of a span, never None."""
    return span.attributes or {}
