# SPDX-License-Identifier: Apache-2.0
"""Every name that appears in spans: OpenTelemetry's semantic conventions 1.44, and ours.

The messaging conventions are in development; their renames are made here.
https://github.com/open-telemetry/semantic-conventions/blob/v1.44.0/docs/messaging/messaging-spans.md
"""

from collections.abc import Mapping

from orderflow.messaging.broker import Properties

AttributeValue = str | bool | int | float
"""The value of an attribute of a span."""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "orderflow"

MESSAGING_SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
BODY_SIZE = "messaging.message.body.size"
BATCH_COUNT = "messaging.batch.message_count"
ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
DELIVERY_TAG = "messaging.rabbitmq.message.delivery_tag"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"

HTTP_METHOD = "http.request.method"
HTTP_METHOD_ORIGINAL = "http.request.method_original"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
URL_PATH = "url.path"
URL_SCHEME = "url.scheme"

SERVICE_NAME = "service.name"
SERVICE_VERSION = "service.version"

ORDER_ID = "orderflow.order_id"
EVENT_TYPE = "orderflow.event_type"
RETRY_COUNT = "orderflow.retry.count"
RETRY_DELAY = "orderflow.retry.delay_seconds"
REDELIVERED = "orderflow.redelivered"
OUTCOME = "orderflow.outcome"
REASON = "orderflow.reason"
OPERATION = "orderflow.operation"
FAILED_ATTEMPTS = "orderflow.failed_attempts"
PUBLISH_FAILURES = "orderflow.publish.failures"
EXEMPLAR = "exemplar"
"""Set on a span whose trace a metric points to: the collector keeps such traces."""

PROCESS: Mapping[str, AttributeValue] = {
    MESSAGING_SYSTEM: "rabbitmq",
    OPERATION_NAME: "process",
    OPERATION_TYPE: "process",
}
CREATE: Mapping[str, AttributeValue] = {
    MESSAGING_SYSTEM: "rabbitmq",
    OPERATION_NAME: "create",
    OPERATION_TYPE: "create",
}
SEND: Mapping[str, AttributeValue] = {
    MESSAGING_SYSTEM: "rabbitmq",
    OPERATION_NAME: "send",
    OPERATION_TYPE: "send",
}


def destination(*parts: str) -> str:
    """The destination's name: exchange, routing key and queue, joined by colons, without those that are empty."""
    return ":".join([part for part in parts if part])


def message(properties: Properties, body: bytes) -> Mapping[str, AttributeValue]:
    """The attributes of a message, sent or received."""
    return {
        BODY_SIZE: len(body),
        MESSAGE_ID: properties.message_id or "",
        CONVERSATION_ID: properties.correlation_id or "",
        ORDER_ID: properties.correlation_id or "",
        EVENT_TYPE: properties.type or "",
    }
