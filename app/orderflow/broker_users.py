# SPDX-License-Identifier: Apache-2.0
"""Which broker user belongs to which service, as one process sees it: by their names, or by a setting.

Users are called like their services, perhaps with the prefix of the installation; a process knows the prefix from its
own user. On a broker whose users are managed elsewhere, a setting names them.
"""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote, urlsplit

import msgspec

from orderflow.messaging.errors import SettingsError
from orderflow.messaging.publisher_check import COPIED_THROUGH, Mode, PublisherCheck
from orderflow.messaging.service import Service
from orderflow.setting_values import pairs
from orderflow.settings import Settings

REPLAY = "replay"
"""The user with which operators replay dead letters; it stands beside the services."""


class BrokerUsers(msgspec.Struct, frozen=True, kw_only=True):
    """The users of one installation.

    ``own`` is the one of this process, for its messages to name; None while publishers are not checked.
    """

    mode: Mode
    own: str | None
    names: Mapping[str, str]
    """Service, or ``replay``, to user; empty while publishers are not checked."""
    services: Sequence[Service]

    def check(self, service: str) -> PublisherCheck:
        """What the consumers of a service believe."""
        queues = [queue.name for each in self.services if each.name == service for queue in each.queues]
        through = COPIED_THROUGH.union(queues)  # a queue with partitions has an exchange of its name
        if self.own is None:
            return PublisherCheck(copied_through=through)
        owners = {event: self.names[owner.name] for owner in self.services for event in owner.publishes}
        own_user, replay_user = self.names[service], self.names[REPLAY]
        return PublisherCheck(
            mode=self.mode, own_user=own_user, replay_user=replay_user, owners=owners, copied_through=through
        )


def broker_users(settings: Settings, name: str, services: Sequence[Service]) -> BrokerUsers:
    """The users, for a process of a service or for ``replay``; raises SettingsError when they are not known."""
    if settings.publisher_check == "off":
        return BrokerUsers(mode="off", own=None, names={}, services=services)
    wanted = [*(service.name for service in services), REPLAY]
    names = pairs(settings.broker_users) or _by_prefix(settings.amqp_url, name, wanted)
    if problems := list(_problems(names, wanted)):
        raise SettingsError(problems)
    return BrokerUsers(mode=settings.publisher_check, own=names[name], names=names, services=services)


def _by_prefix(amqp_url: str, name: str, wanted: Sequence[str]) -> Mapping[str, str]:
    user = unquote(urlsplit(amqp_url).username or "guest")
    if not user.endswith(name):
        problem = (
            f"ORDERFLOW_AMQP_URL has the user {user!r}, whose name does not end in {name!r}: use {name}'s own user,"
            " or name the users of your broker in ORDERFLOW_BROKER_USERS, or set ORDERFLOW_PUBLISHER_CHECK=off"
        )
        raise SettingsError([problem])
    prefix = user.removesuffix(name)
    return {each: prefix + each for each in wanted}


def _problems(names: Mapping[str, str], wanted: Sequence[str]) -> Iterator[str]:
    if missing := [name for name in wanted if name not in names]:
        yield f"ORDERFLOW_BROKER_USERS names no user of {', '.join(missing)}"
    if unknown := [name for name in names if name not in wanted]:
        yield f"ORDERFLOW_BROKER_USERS: there is no service {', '.join(unknown)}"
    users = list(names.values())
    if shared := sorted({user for user in users if users.count(user) > 1}):
        yield f"ORDERFLOW_BROKER_USERS: {', '.join(shared)} stands for several services, which proves nothing"
