# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ with its management API, Prometheus endpoint and consistent-hash exchange, on loopback."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pika
from pika.exceptions import AMQPError

from local.servers.enclosed_server import EnclosedServer, NotOurServer, ServerContext, kept_password, responds
from local.servers.roots import ServersUnavailable
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.operations.management_api import Management, ManagementRefused

PLUGINS = ("rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_consistent_hash_exchange")
_MAX_MESSAGE_BYTES = 2 * 1024 * 1024
"""A consumer holds up to a thousand messages in memory; the broker's default limit is 16 MiB each."""
_ADMIN = "admin"


class RabbitMQ(EnclosedServer):
    """A broker with a random admin password, no guest user and its own epmd; its data is kept after ``kill``.

    ``extra_config`` is appended to rabbitmq.conf. Publishers are blocked above ``memory_limit_bytes``.
    """

    name = "rabbitmq"
    account = "rabbitmq"

    def __init__(
        self,
        context: ServerContext,
        *,
        extra_config: str = "",
        memory_limit_bytes: int = 1024**3,
    ) -> None:
        super().__init__(context)
        self.management_port, self.metrics_port = context.ports.take(), context.ports.take()
        self._distribution_port, self._epmd_port = context.ports.take(), context.ports.take()
        self._password = kept_password(self.directory)
        self._extra_config = extra_config
        self._memory_limit_bytes = memory_limit_bytes

    @property
    def amqp_url(self) -> str:
        """The admin's URL of vhost /."""
        return f"amqp://{_ADMIN}:{self._password}@127.0.0.1:{self.port}/%2F"

    @property
    def management_url(self) -> str:
        """The management API with the admin's credentials, without a path."""
        return f"http://{_ADMIN}:{self._password}@127.0.0.1:{self.management_port}"

    @property
    def metrics_url(self) -> str:
        """The Prometheus endpoint with aggregated metrics; ``/metrics/detailed`` lies below it."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def is_ready(self) -> bool:
        """Whether it accepts AMQP connections and serves its management API and metrics."""
        credentials = base64.b64encode(f"{_ADMIN}:{self._password}".encode()).decode()
        check = f"http://127.0.0.1:{self.management_port}/api/health/checks/port-listener/{self.port}"
        return responds(check, headers={"Authorization": f"Basic {credentials}"}) and responds(self.metrics_url)

    def keeps(self, queue: str) -> bool:
        """Whether a quorum queue would survive a kill now.

        The broker registers a declared queue on disk up to a second later. If it is killed before that, the queue comes
        back without a leader (4.0: every use times out) or empty (4.3: confirmed messages are lost).
        """
        registrations = self.directory.glob("mnesia/*/quorum/*/names.dets")
        return any(f"_{queue}".encode() in file.read_bytes() for file in registrations)

    def _write_files(self) -> None:
        (self.directory / "enabled_plugins").write_text(f"[{','.join(PLUGINS)}].\n")
        config = self.directory / "rabbitmq.conf"
        config.touch(mode=0o600)
        config.write_text(self._config())

    def _config(self) -> str:
        return f"""\
listeners.tcp.1 = 127.0.0.1:{self.port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {self.management_port}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {self.metrics_port}
default_user = {_ADMIN}
default_pass = {self._password}
default_user_tags.administrator = true
vm_memory_high_watermark.absolute = {self._memory_limit_bytes}
disk_free_limit.absolute = 200MB
max_message_size = {_MAX_MESSAGE_BYTES}
log.console = true
log.console.level = info
log.console.use_colors = off
log.file = false
{self._extra_config}
"""

    def _command(self) -> Sequence[str]:
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def _environment(self) -> Mapping[str, str]:
        return {
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": "/data/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "/data/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": "/data/mnesia",
            "RABBITMQ_LOG_BASE": "/data/log",
            "RABBITMQ_PID_FILE": "/run/rabbitmq.pid",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenRabbitMQ:
    """A broker that runs elsewhere, given by URL."""

    amqp_url: str
    management_url: str
    metrics_url: str = ""

    def check(self) -> None:
        """Raises ServersUnavailable, naming the variable, when it cannot be used."""
        try:
            Management(self.management_url).get("overview")
        except (BrokerUnavailable, ManagementRefused, ValueError) as error:
            raise ServersUnavailable(f"ORDERFLOW_MANAGEMENT_URL does not work: {error}") from error
        try:
            pika.BlockingConnection(pika.URLParameters(self.amqp_url)).close()
        except (AMQPError, OSError, ValueError) as error:
            raise ServersUnavailable(f"ORDERFLOW_AMQP_URL does not work: {error!r}") from error

    def kill(self) -> None:
        """Refused: raises NotOurServer."""
        raise NotOurServer("RabbitMQ was given by ORDERFLOW_AMQP_URL; it cannot be stopped or killed from here")

    start = stop = restart = kill
