# SPDX-License-Identifier: Apache-2.0
"""How many partitions the queues have, where ``ORDERFLOW_PARTITIONS`` says something else than their declarations.

While a count changes, a process names the old and the new one (``order_updates=2+4``), and consumes the partitions of
both: it empties the old ones, and reads the new ones as soon as the broker lets it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orderflow.messaging.errors import SettingsError
from orderflow.messaging.service import Queue, Service
from orderflow.setting_values import counts


class PartitionCounts:
    """The counts in a setting; raises SettingsError when it names a queue that no service has."""

    def __init__(self, text: str, services: Sequence[Service]) -> None:
        self._counts: Mapping[str, tuple[int, ...]] = counts(text)
        known = {queue.name for service in services for queue in service.queues}
        if unknown := sorted(set(self._counts) - known):
            raise SettingsError([f"ORDERFLOW_PARTITIONS: there is no queue {', '.join(unknown)}"])

    def consumed(self, queue: Queue) -> tuple[Queue, ...]:
        """The declared queue with each number of partitions that a process consumes."""
        return tuple(replace(queue, partitions=count) for count in self._counts.get(queue.name, (queue.partitions,)))

    def wanted(self, services: Sequence[Service]) -> tuple[Service, ...]:
        """The services, each queue with the number of partitions that it is to have: the last one that is named."""
        return tuple(replace(service, queues=tuple(self._last(service.queues))) for service in services)

    def _last(self, queues: Sequence[Queue]) -> Iterator[Queue]:
        return (self.consumed(queue)[-1] for queue in queues)
