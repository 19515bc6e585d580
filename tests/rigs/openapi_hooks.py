# SPDX-License-Identifier: Apache-2.0
"""What schemathesis cannot know: a new Idempotency-Key, SKUs that are for sale, and the ETag of a stock.

Loaded by name (SCHEMATHESIS_HOOKS) in the process of schemathesis. Only requests that are meant to succeed are changed.
"""

from typing import Any
from uuid import uuid4

import schemathesis

SKUS = ("sku-1", "sku-2")


@schemathesis.hook
def before_call(context: Any, case: schemathesis.Case[Any], kwargs: Any) -> None:
    """Make a valid order one that can be accepted, and a conditional change one whose condition holds."""
    _ = context, kwargs
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.method == "PUT":
        for name in ("If-Match", "If-None-Match"):
            case.headers.pop(name, None)
    if case.method != "POST":
        return
    order: Any = case.body
    if isinstance(order, dict) and isinstance(order.get("items"), list):
        case.headers["Idempotency-Key"] = f"{uuid4()}-{case.headers['Idempotency-Key']}"[:255]
        for number, line in enumerate(order["items"]):
            line["sku"] = SKUS[number % len(SKUS)]
