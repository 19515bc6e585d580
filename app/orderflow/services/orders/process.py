# SPDX-License-Identifier: Apache-2.0
"""The processes of orders."""

from functools import partial

from orderflow.runtime import ProcessDeclaration, Runtime


def build_orders_api(runtime: Runtime) -> None:
    """The HTTP API, the group commit of its writes, and the relay."""
    from orderflow.http.api_database import RESPONSE_SECONDS, ApiDatabase
    from orderflow.messaging.group_commit import GroupCommit
    from orderflow.services.orders.api import OrdersApi
    from orderflow.services.orders.place_orders import PlaceOrders

    settings, instrumentation = runtime.settings, runtime.instrumentation
    place_orders = PlaceOrders(hold_seconds=settings.hold_seconds, instrumentation=instrumentation)
    writer = GroupCommit(runtime.unit_of_work(), place_orders, clock=runtime.clock, name="write orders")
    relay = runtime.relay()
    api = OrdersApi(
        database=ApiDatabase(writer, runtime.read_pool(timeout_seconds=RESPONSE_SECONDS)),
        keys=runtime.api_keys(),
        instrumentation=instrumentation,
        outbox_age=lambda: relay.oldest_seconds,
        outbox_max_age_seconds=settings.outbox_max_age_seconds,
    )
    runtime.serve_http(api.app())
    runtime.add(writer)
    runtime.add(relay)


def build_orders(runtime: Runtime) -> None:
    """The state machine, the availability view, and the periodic tasks."""
    from orderflow.services.orders.expiry import expire_holds
    from orderflow.services.orders.handlers import AvailabilityUpdates, OrderUpdates
    from orderflow.services.orders.store import prune_idempotency_keys

    instrumentation, hours = runtime.instrumentation, runtime.settings.idempotency_hours
    runtime.add(
        *runtime.consumers("order_updates", lambda: OrderUpdates(instrumentation)),
        *runtime.consumers("availability_updates", AvailabilityUpdates),
        runtime.periodic("expire holds", 1, partial(expire_holds, instrumentation=instrumentation)),
        runtime.periodic("prune idempotency keys", 3600, partial(prune_idempotency_keys, hours=hours)),
    )
    runtime.add(runtime.relay())


PROCESSES = {
    "orders-api": ProcessDeclaration(build=build_orders_api, areas=("publishing", "intake", "http")),
    "orders": ProcessDeclaration(build=build_orders, areas=("consuming", "publishing", "orders")),
}
