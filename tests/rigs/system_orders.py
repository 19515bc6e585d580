# SPDX-License-Identifier: Apache-2.0
"""Orders of a whole system, placed through its API as a customer does."""

from uuid import uuid4

from local.http_json import http
from local.system import System


def place_order(system: System, sku: str, *, quantity: int = 1, payment_token: str = "ok") -> str:
    """Place an order of one line; its id. Fails when it is not accepted."""
    body = {"user_id": "u", "items": [{"sku": sku, "quantity": quantity}], "payment_token": payment_token}
    headers = {"Authorization": f"Bearer {system.orders_key}", "Idempotency-Key": str(uuid4())}
    response = http("POST", f"{system.orders_api}/v1/orders", headers=headers, body=body)
    assert response.status_code == 202, response.text
    return str(response.json()["order_id"])
