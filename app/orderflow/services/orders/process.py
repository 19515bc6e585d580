# SPDX-License-Identifier: Apache-2.0
"""The processes of orders."""

from functools import partial

from orderflow.runtime import ProcessDeclaration, Runtime


def build_orders_api(runtime: Runtime) -> None:
    """The HTTP API, the admission of orders, the group commit of its writes, and the relay."""
    from orderflow.http.api_database import RESPONSE_SECONDS, ApiDatabase
    from orderflow.messaging.group_commit import GroupCommit
    from orderflow.services.orders.admission import Admission
    from orderflow.services.orders.api import OrdersApi
    from orderflow.services.orders.place_orders import PlaceOrders
    from orderflow.services.orders.progress import ProgressReader

    settings, instrumentation = runtime.settings, runtime.instrumentation
    place_orders = PlaceOrders(
        deadline_seconds=settings.order_deadline_seconds,
        hold_seconds=settings.hold_seconds,
        instrumentation=instrumentation,
    )
    admission = Admission(
        limit_seconds=settings.admission_limit_seconds, clock=runtime.clock, instrumentation=instrumentation
    )
    read_progress = ProgressReader()
    writer = GroupCommit(runtime.unit_of_work(), place_orders, clock=runtime.clock, name="write orders")
    api = OrdersApi(
        database=ApiDatabase(writer, runtime.read_pool(timeout_seconds=RESPONSE_SECONDS)),
        keys=runtime.api_keys(),
        rate_limit=runtime.rate_limit(),
        instrumentation=instrumentation,
        admission=admission,
    )
    runtime.serve_http(api.app(), api.early_refusal())
    runtime.add(writer)
    runtime.add(
        runtime.periodic("watch progress", 0.5, lambda transaction: admission.update(read_progress(transaction))),
        runtime.relay(),
    )


def build_orders(runtime: Runtime) -> None:
    """The state machine, the availability view, and the periodic tasks."""
    from orderflow.services.orders.expiry import cancel_expired
    from orderflow.services.orders.handlers import AvailabilityUpdates, OrderUpdates
    from orderflow.services.orders.idempotency_pruning import PrunedIdempotencyKeys
    from orderflow.services.orders.order_retention import retired_orders

    instrumentation, hours = runtime.instrumentation, runtime.settings.idempotency_hours
    days = runtime.settings.retention_days
    runtime.add(
        *runtime.consumers("order_updates", lambda: OrderUpdates(instrumentation)),
        *runtime.consumers("availability_updates", AvailabilityUpdates),
        runtime.periodic("cancel expired", 1, partial(cancel_expired, instrumentation=instrumentation)),
        runtime.pruner("prune idempotency keys", PrunedIdempotencyKeys(hours=hours)),
    )
    if days:
        runtime.add(runtime.pruner("prune orders", retired_orders(days=days)))
    runtime.add(runtime.relay())


PROCESSES = {
    "orders-api": ProcessDeclaration(build=build_orders_api, areas=("publishing", "intake", "http")),
    "orders": ProcessDeclaration(build=build_orders, areas=("consuming", "publishing", "orders")),
}
