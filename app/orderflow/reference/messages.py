# SPDX-License-Identifier: Apache-2.0
"""The reference of the messages: a page, a JSON Schema for each, and an AsyncAPI 3.0 document."""

import inspect
from collections.abc import Iterator
from typing import Any

import msgspec

from orderflow.events import EVENTS, EXCHANGE
from orderflow.messaging.event import Event, event_type
from orderflow.services import SERVICES

DRAFT = "https://json-schema.org/draft/2020-12/schema"

HEADERS: dict[str, tuple[str, str]] = {
    "x-occurred-at": ("string", "When the event happened, RFC 3339."),
    "x-causation-id": ("string", "Id of the message that caused this one."),
    "traceparent": ("string", "W3C trace context."),
    "tracestate": ("string", "W3C trace context."),
    "x-retry-count": ("integer", "Attempts that failed so far."),
    "x-first-failure-at": ("string", "When the first attempt failed, RFC 3339."),
    "x-reason": ("string", "Why the last attempt failed, one word."),
    "x-original-routing-key": ("string", "On a copy: the routing key with which the event was published."),
    "x-original-user-id": ("string", "On a copy: the user who published the event; absent when none is known."),
    "x-queue": ("string", "On a dead letter: the queue in which it failed."),
    "x-dead-lettered-at": ("string", "On a dead letter: when it was dead-lettered, RFC 3339."),
    "x-detail": ("string", "On a dead letter: the reason in a sentence."),
    "x-replayed-at": ("string", "When an operator replayed it, RFC 3339."),
    "x-replayed-by": ("string", "The operator who replayed it."),
}
PROPERTIES = {
    "message_id": "Id of the message, kept through retry and replay: duplicates are recognised by it. Required.",
    "correlation_id": "The order's id, or the SKU for a stock event.",
    "type": "The event type, as in the body.",
    "timestamp": "When the event happened, in whole seconds.",
    "app_id": "The service that published it, as it says.",
    "user_id": "The broker user who published it, verified by the broker: the owner of the event; for a copy, the"
    " service of its queue (retry, dead letter) or `replay`. Required.",
    "content_type": "`application/json`.",
    "content_encoding": "`zstd` or `gzip` when the body is compressed.",
    "delivery_mode": "2, persistent.",
}


def messages() -> str:
    """The page about every event: its publishers, its queues and its fields."""
    lines = ["# Messages", "", f"All events go to the topic exchange `{EXCHANGE}` as one JSON object.", ""]
    lines += ["| Event | Routing key | Published by | Goes to |", "|---|---|---|---|"]
    for event in EVENTS:
        name = event_type(event)
        cells = (f"[`{name}`](#{name.lower()})", f"`{event.routing_key}`", _publishers(event), _queues(event))
        lines.append(f"| {' | '.join(cells)} |")
    for event in EVENTS:
        lines += ["", f"## {event_type(event)}", "", _meaning(event), "", *_fields(event)]
    lines += ["", "## Properties", "", "| Property | Meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in PROPERTIES.items()]
    lines += ["", "## Headers", "", "| Header | Type | Meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in HEADERS.items()]
    return "\n".join(lines)


def schemas() -> dict[str, str]:
    """A JSON Schema (draft 2020-12) for each event, by file name."""
    return {
        f"{event_type(event)}.json": _json({"$schema": DRAFT, "title": event_type(event), **msgspec.json.schema(event)})
        for event in EVENTS
    }


def asyncapi() -> str:
    """The AsyncAPI 3.0 document: a channel for each routing key and each queue, operations by service."""
    _, components = msgspec.json.schema_components(EVENTS, ref_template="#/components/schemas/{name}")
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "orderflow",
            "version": "1.0.0",
            "description": "Events between the order services. Delivery is at least once.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {**_event_channels(), **_queue_channels()},
        "operations": dict(_operations()),
        "components": {
            "messages": {event_type(event): _message(event) for event in EVENTS},
            "schemas": {**components, "Headers": _headers()},
        },
    }
    return _json(document)


def _message(event: type[Event]) -> dict[str, Any]:
    return {
        "name": event_type(event),
        "summary": _meaning(event),
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/Headers"},
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
        "bindings": {"amqp": {"messageType": event_type(event), "bindingVersion": "0.3.0"}},
    }


def _headers() -> dict[str, Any]:
    fields = {name: {"type": kind, "description": meaning} for name, (kind, meaning) in HEADERS.items()}
    return {"type": "object", "properties": fields}


def _references(events: tuple[type[Event], ...]) -> dict[str, Any]:
    return {event_type(event): {"$ref": f"#/components/messages/{event_type(event)}"} for event in events}


def _event_channels() -> dict[str, Any]:
    exchange = {"name": EXCHANGE, "type": "topic", "durable": True, "autoDelete": False}
    return {
        event.routing_key: {
            "address": event.routing_key,
            "messages": _references((event,)),
            "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": "0.3.0"}},
        }
        for event in EVENTS
    }


def _queue_channels() -> dict[str, Any]:
    def bound(name: str) -> dict[str, Any]:
        queue = {"name": name, "durable": True, "exclusive": False, "autoDelete": False}
        return {"amqp": {"is": "queue", "queue": queue, "bindingVersion": "0.3.0"}}

    return {
        queue.name: {"address": queue.name, "messages": _references(queue.events), "bindings": bound(queue.name)}
        for service in SERVICES
        for queue in service.queues
    }


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for service in SERVICES:
        tags = [{"name": service.name}]
        for event in service.publishes:
            channel = {"$ref": f"#/channels/{event.routing_key}"}
            yield f"{service.name}.publish.{event_type(event)}", {"action": "send", "channel": channel, "tags": tags}
        for queue in service.queues:
            channel = {"$ref": f"#/channels/{queue.name}"}
            yield f"{service.name}.consume.{queue.name}", {"action": "receive", "channel": channel, "tags": tags}


def _publishers(event: type[Event]) -> str:
    return ", ".join(service.name for service in SERVICES if event in service.publishes)


def _queues(event: type[Event]) -> str:
    return ", ".join(f"`{q.name}`" for service in SERVICES for q in service.queues if event in q.events)


def _meaning(event: type[Event]) -> str:
    return inspect.cleandoc(event.__doc__ or "").split("\n")[0]


def _fields(event: type[Event]) -> list[str]:
    schema = msgspec.json.schema(event)
    properties = schema["$defs"][event.__name__]["properties"]
    required = schema["$defs"][event.__name__]["required"]
    rows = ["| Field | Type | Meaning |", "|---|---|---|"]
    for name, described in properties.items():
        kind = _kind(described) + ("" if name in required else ", optional")
        rows.append(f"| `{name}` | {kind} | {described.get('description', '')} |")
    return rows


def _kind(schema: dict[str, Any]) -> str:
    """A field's type in words."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return " ".join(str(schema[part]) for part in ("type", "format") if part in schema)


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode() + "\n"
