# SPDX-License-Identifier: Apache-2.0
"""What inventory has deleted of the ledger and the reservations, by SKU, so that sums over all of them stay exact."""

from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.reading import read

_EXISTS = "select to_regclass('retired_stock') is not null"
_RETIRED = "select sku, put, available, reserved, sold, held_sold from retired_stock"
_NONE = """
select ''::text as sku, 0::bigint as put, 0::bigint as available, 0::bigint as reserved, 0::bigint as sold,
       0::bigint as held_sold where false
"""


def retired_stock(inventory: Database) -> str:
    """A query for the sums by SKU: sku, put, available, reserved, sold, held_sold. Empty where nothing is deleted."""
    ((exists,),) = read(inventory, _EXISTS)
    return _RETIRED if exists else _NONE
