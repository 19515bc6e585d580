# SPDX-License-Identifier: Apache-2.0
"""One order's trace, drawn as a tree of spans with times."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.tree import Tree

from local.http_json import http_json

Span = Mapping[str, Any]


def find(trace_store: str, order_ids: Iterable[str], *, least_spans: int = 8) -> tuple[str, list[Span]] | None:
    """The first of these orders whose complete trace is stored, with its spans; None when there is none."""
    for order_id in order_ids:
        _, traces = http_json("GET", f"{trace_store}/traces?attribute=orderflow.order_id={order_id}")
        for trace_id in traces or ():
            _, spans = http_json("GET", f"{trace_store}/traces/{trace_id}")
            if len(spans) >= least_spans and len(roots(spans)) == 1:
                return order_id, spans
    return None


def roots(spans: Sequence[Span]) -> list[Span]:
    """Spans whose parent is not among them: exactly one when the trace is connected."""
    known = {span["span_id"] for span in spans}
    return [span for span in spans if span.get("parent_span_id") not in known]


def tree(order_id: str, spans: Sequence[Span]) -> Tree:
    """The spans as a tree: service, name, start after the request, and duration."""
    start = min(int(span["start"]) for span in spans)
    drawing = Tree(f"order {order_id}, trace {spans[0]['trace_id']}")
    for root in roots(spans):
        _grow(drawing, root, spans, start)
    return drawing


def _grow(branch: Tree, span: Span, spans: Sequence[Span], start: int) -> None:
    begun, took = (int(span["start"]) - start) / 1e6, (int(span["end"]) - int(span["start"])) / 1e6
    key = span["attributes"].get("messaging.rabbitmq.destination.routing_key", "")
    about = f"{span['service']}: {span['name']} {key}".rstrip()
    twig = branch.add(f"{about}  [dim]+{begun:.1f} ms, {took:.1f} ms[/dim]")
    children = [child for child in spans if child.get("parent_span_id") == span["span_id"]]
    for child in sorted(children, key=lambda child: int(child["start"])):
        _grow(twig, child, spans, start)
