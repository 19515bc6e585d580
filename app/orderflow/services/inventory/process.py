# SPDX-License-Identifier: Apache-2.0
"""The processes of inventory."""

from orderflow.messaging.service import Handler
from orderflow.runtime import ProcessDeclaration, Runtime


def build_inventory_api(runtime: Runtime) -> None:
    """The HTTP API, the group commit of its writes, and the relay."""
    from orderflow.http.api_database import RESPONSE_SECONDS, ApiDatabase
    from orderflow.messaging.group_commit import GroupCommit
    from orderflow.services.inventory.api import StockApi
    from orderflow.services.inventory.set_stock import SetStock

    set_stock = SetStock(low_units=runtime.settings.low_stock_units, instrumentation=runtime.instrumentation)
    writer = GroupCommit(runtime.unit_of_work(), set_stock, clock=runtime.clock, name="write stock")
    database = ApiDatabase(writer, runtime.read_pool(timeout_seconds=RESPONSE_SECONDS))
    api = StockApi(database=database, keys=runtime.api_keys(), rate_limit=runtime.rate_limit())
    runtime.serve_http(api.app())
    runtime.add(writer)
    runtime.add(runtime.relay())


def build_inventory(runtime: Runtime) -> None:
    """Reservations, sales and releases."""
    from orderflow.services.inventory.handlers import InventoryUpdates
    from orderflow.services.inventory.stock_retention import RetiredPuts, recent_events, retired_reservations

    low, days, instrumentation = (
        runtime.settings.low_stock_units,
        runtime.settings.retention_days,
        runtime.instrumentation,
    )

    def handler() -> Handler:
        updates = InventoryUpdates(low_units=low, instrumentation=instrumentation)
        return recent_events(updates, retention_days=days)

    runtime.add(*runtime.consumers("inventory_updates", handler))
    if days:
        runtime.add(runtime.pruner("prune stock", retired_reservations(days=days), RetiredPuts(days=days)))
    runtime.add(runtime.relay())


PROCESSES = {
    "inventory-api": ProcessDeclaration(build=build_inventory_api, areas=("publishing", "http", "stock")),
    "inventory": ProcessDeclaration(build=build_inventory, areas=("consuming", "publishing", "stock")),
}
