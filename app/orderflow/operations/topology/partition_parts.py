# SPDX-License-Identifier: Apache-2.0
"""The parts of the definitions document that belong to one queue with a number of partitions. No I/O."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec

from orderflow.broker_topology import definitions, partition_exchange, service_permission, work_queues
from orderflow.messaging.service import Queue, Service
from orderflow.operations.topology.diff import Difference, compare
from orderflow.operations.topology.partition_state import PartitionState, partition_state
from orderflow.rabbitmq_definitions import Binding, Definitions, Exchange, Permission, VirtualHost

_NAMES = {"queue": (0,), "exchange": (0,), "policy": (0,), "binding": (0, 2)}
"""Where the key of a difference names a queue or an exchange."""


class PartitionParts:
    """Queue ``name`` with ``count`` partitions. ``services`` have the counts that the other queues have."""

    def __init__(self, services: Sequence[Service], *, vhost: str, prefix: str, name: str, count: int) -> None:
        changed = [_with_count(service, name, count) for service in services]
        self.service, self.queue = next((s, queue) for s in changed for queue in s.queues if queue.name == name)
        self.user = prefix + self.service.name
        self.work = work_queues(self.queue)
        self.name, self.count = name, count
        self._vhost, self._prefix = vhost, prefix
        self.document = self._of_the_queue(definitions(changed, vhost=vhost, user_prefix=prefix))

    def state(self, actual: Definitions) -> PartitionState:
        """What a broker has of any count."""
        return partition_state(actual, self._vhost, self.user, self.queue)

    def permission(self, *, only: int | None = None) -> Permission:
        """That of the service's user, who may read all partitions, or only those of one count."""
        names = work_queues(replace(self.queue, partitions=only)) if only else ()
        return service_permission(self.service, self._vhost, self._prefix, only={self.name: names} if only else None)

    def may_be_read(self, permission: Permission) -> bool:
        """Whether the permission lets its user read one of the partitions."""
        return permission.vhost == self._vhost and any(re.search(permission.read, name) for name in self.work)

    def other_readers(self, actual: Definitions) -> Sequence[str]:
        """Who else may read the partitions. Administrators may give themselves any permission, so they do not count."""
        admins = {user.name for user in actual.users if "administrator" in user.tags}
        readers = {entry.user for entry in actual.permissions if self.may_be_read(entry)}
        return sorted(readers - admins - {self.user})

    def unbound(self) -> Definitions:
        """Everything but the binding by which events reach the partitions."""
        document = self.document
        if self.count > 1:
            return msgspec.structs.replace(document, bindings=[b for b in document.bindings if b.source != self.name])
        return Definitions(
            vhosts=document.vhosts,
            policies=[policy for policy in document.policies if policy.name == self.name],
            queues=[queue for queue in document.queues if queue.name == self.name],
        )

    def bound(self) -> Definitions:
        """The binding by which events reach the partitions."""
        return Definitions(vhosts=self.document.vhosts, bindings=[self._way(self.count)])

    def way_to_one_queue(self) -> Definitions:
        """An exchange that leads to the queue of a count of 1, which gets its events directly otherwise."""
        exchange = Exchange(name=self.name, vhost=self._vhost, type="fanout")
        return Definitions(vhosts=[VirtualHost(self._vhost)], exchanges=[exchange], bindings=[self._way(1)])

    def ways_to_others(self, actual: Definitions) -> Iterator[Binding]:
        """The bindings by which events reach the partitions of other counts."""
        ours = self._way(self.count).destination
        for found in actual.bindings:
            if (found.vhost, found.source) == (self._vhost, self.name) and found.destination != ours:
                yield found

    def direct(self, actual: Definitions) -> Iterator[Binding]:
        """The bindings by which one queue gets events and replays directly."""
        for found in actual.bindings:
            into = (found.vhost, found.destination_type, found.destination)
            if into == (self._vhost, "queue", self.name) and found.source not in ("", self.name):
                yield found

    def leftovers(self, actual: Definitions) -> Sequence[Difference]:
        """What belongs to the queue, but not to this count."""
        extra = [found for found in compare(self.document, actual) if found.verdict == "extra"]
        return [found for found in extra if any(self._belongs(found.key[at]) for at in _NAMES.get(found.kind, ()))]

    def _way(self, count: int) -> Binding:
        several = count > 1
        return Binding(
            source=self.name,
            vhost=self._vhost,
            destination=partition_exchange(replace(self.queue, partitions=count)) if several else self.name,
            destination_type="exchange" if several else "queue",
            routing_key="",
        )

    def _belongs(self, name: str) -> bool:
        """Whether it is the name of the queue, of its exchange, of a partition or of a retry queue."""
        return bool(re.fullmatch(re.escape(self.name) + r"(\.[0-9]*of[0-9]+|\.retry\..+)?", name))

    def _of_the_queue(self, document: Definitions) -> Definitions:
        belongs = self._belongs
        return Definitions(
            vhosts=document.vhosts,
            policies=[policy for policy in document.policies if belongs(policy.name)],
            exchanges=[exchange for exchange in document.exchanges if belongs(exchange.name)],
            queues=[queue for queue in document.queues if belongs(queue.name)],
            bindings=[found for found in document.bindings if belongs(found.source) or belongs(found.destination)],
        )


def _with_count(service: Service, name: str, count: int) -> Service:
    queues: tuple[Queue, ...] = tuple(
        replace(queue, partitions=count) if queue.name == name else queue for queue in service.queues
    )
    return replace(service, queues=queues)
