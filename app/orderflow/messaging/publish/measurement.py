# SPDX-License-Identifier: Apache-2.0
"""How many rows the outbox has, by what they wait for; the cost does not grow with the outbox.

Each number comes from an index, which is read up to ``COUNTED`` rows. Parked and nacked rows are not among those that
wait for a confirm, so that their age does not hide the others.
"""

from collections.abc import Mapping

import msgspec

from orderflow.messaging.service import Transaction

COUNTED = 10_000
"""The largest number of rows that is counted; a number as large means that many or more."""
# An index has no list of its distinct values: the recursion jumps from one routing key to the next.
_MEASURE = """
with recursive keys (routing_key) as (
    (select routing_key from outbox where reason = 'nacked' and leased_until = 'infinity'
     order by routing_key limit 1)
    union all
    select (select routing_key from outbox where reason = 'nacked' and leased_until = 'infinity'
            and outbox.routing_key > keys.routing_key order by routing_key limit 1)
    from keys where keys.routing_key is not null
), nacked as (
    select routing_key, (
        select count(*) from (
            select from outbox where reason = 'nacked' and leased_until = 'infinity'
            and outbox.routing_key = keys.routing_key limit %(limit)s) as counted) as rows
    from keys where routing_key is not null
)
select count(*), extract(epoch from statement_timestamp() - min(created_at))::float8,
       (select count(*) from (select from outbox where parked_at is not null limit %(limit)s) as counted),
       (select jsonb_object_agg(routing_key, rows) from nacked)
from (select created_at from outbox where leased_until < 'infinity' order by leased_until limit %(limit)s) as open
"""


class Measurement(msgspec.Struct, frozen=True):
    """One look at the outbox."""

    rows: int
    """Those that wait for their confirm."""
    oldest_seconds: float
    """Age of the oldest of those; when there are more than ``COUNTED``, among those whose lease ends first."""
    parked: int
    nacked: Mapping[str, int]
    """Routing key to the number of rows that a full queue refused."""


def measure(transaction: Transaction) -> Measurement:
    """Look once, in one statement."""
    ((rows, oldest, parked, nacked),) = transaction.execute(_MEASURE, {"limit": COUNTED})
    return Measurement(rows, max(0.0, oldest or 0.0), parked, nacked or {})
