# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from local.servers.rabbitmq import GivenRabbitMQ
from local.servers.stack import Stack
from local.system import System


@pytest.mark.parametrize("host", ["localhost", "localhost:5671", "[::1]:5672", "broker.example:5672"])
@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_a_users_url_leads_where_the_given_one_does(scheme: str, host: str, tmp_path: Path) -> None:
    with Stack(directory=tmp_path) as stack:
        stack._rabbitmq = GivenRabbitMQ(amqp_url=f"{scheme}://guest:guest@{host}/", management_url="")
        system = System(stack, tmp_path, name="demo")
        system.ports.release()
        url = urlsplit(system.amqp_url("orders"))
    assert (url.scheme, url.netloc.rpartition("@")[2], url.username, url.path) == (scheme, host, "demo-orders", "/demo")
