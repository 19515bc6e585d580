# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from local.servers.rabbitmq import GivenRabbitMQ
from local.servers.stack import Stack
from local.system import PROCESSES
from tests.resilience.builds import Build, SystemOfBuild

OLD = ("ORDERFLOW_AMQP_URL", "ORDERFLOW_DATABASE_URL", "ORDERFLOW_HOLD_SECONDS")


@pytest.mark.parametrize("process", [*PROCESSES, "reconciler"])
def test_processes_of_an_old_build_get_only_the_settings_that_it_has(process: str, tmp_path: Path) -> None:
    page = tmp_path / "docs/reference/settings.md"
    page.parent.mkdir(parents=True)
    page.write_text("".join(f"| `{name}` | | |\n" for name in OLD))
    wanted = {"ORDERFLOW_HOLD_SECONDS": "20", "ORDERFLOW_NO_SUCH_SETTING": "1"}
    with Stack(directory=tmp_path) as stack:
        stack._rabbitmq = GivenRabbitMQ(amqp_url="amqp://guest@localhost", management_url="http://localhost")
        system = SystemOfBuild(stack, tmp_path, build=Build("old", tmp_path), environ=wanted)
        system.ports.release()
        system.databases = dict.fromkeys(PROCESSES.values(), "postgresql://localhost/x")
        environ = system.environment(process)
    assert {name for name in environ if name.startswith("ORDERFLOW_")} <= set(OLD)
    assert environ["ORDERFLOW_HOLD_SECONDS"] == "20"
    assert environ["PYTHONPATH"].endswith(str(tmp_path))
