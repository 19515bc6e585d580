# SPDX-License-Identifier: Apache-2.0
"""Imports have one direction: __main__ → bootstrap → {services, telemetry, operations, http} → messaging."""

import ast
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
PACKAGE = APP / "orderflow"
MODULES = sorted(path.relative_to(APP).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py"))

# Layers, the lowest first. A module may import its own layer and lower ones, so layers have no import cycles.
LAYERS = (
    "orderflow.version",
    "orderflow.messaging.errors",
    "orderflow.messaging.clock",
    "orderflow.messaging.uuid7",
    "orderflow.messaging.backoff",
    "orderflow.messaging.pace",
    "orderflow.messaging.event",
    "orderflow.messaging.broker",
    "orderflow.messaging.instrumentation",
    "orderflow.messaging.service",
    "orderflow.messaging.publisher_check",
    "orderflow.messaging.codec",
    "orderflow.messaging.postgres",
    "orderflow.messaging.publish",
    "orderflow.messaging.consume",
    "orderflow.messaging.rabbitmq",
    "orderflow.messaging",
    "orderflow.events",
    "orderflow.instrumentation",
    "orderflow.http",
    "orderflow.setting_values",
    "orderflow.settings",
    "orderflow.partition_counts",
    "orderflow.runtime",
    "orderflow.services",
    "orderflow.database_schema",
    "orderflow.rabbitmq_definitions",
    "orderflow.broker_topology",
    "orderflow.broker_users",
    "orderflow.telemetry",
    "orderflow.payment_simulator",
    "orderflow.operations",
    "orderflow.reference",
    "orderflow.bootstrap",
    "orderflow",
)
# Layers that may import only some of the lower layers.
MAY_IMPORT = {
    "orderflow.services": (
        "orderflow.events",
        "orderflow.http",
        "orderflow.instrumentation",
        "orderflow.messaging",
        "orderflow.runtime",
        "orderflow.services",
        "orderflow.settings",
    ),
    "orderflow.events": ("orderflow.messaging.event",),
    "orderflow.instrumentation": ("orderflow.messaging.instrumentation",),
}
# The only packages that may import these libraries.
ONLY_IN = {
    "pika": ("orderflow.messaging.rabbitmq", "orderflow.operations", "orderflow.telemetry.tracing.pika_channel"),
    "psycopg": ("orderflow.messaging.postgres",),
    "psycopg_pool": ("orderflow.messaging.postgres.read_pool",),
    "requests": ("orderflow.operations",),
    "prometheus_client": ("orderflow.telemetry",),
    "opentelemetry": ("orderflow.telemetry",),
    "litestar": ("orderflow.http", "orderflow.services"),
    "uvicorn": ("orderflow.http",),
}


@cache
def imports(module: str) -> tuple[str, ...]:
    """Every module name that a module imports, at its top or inside a function."""
    found: list[str] = []
    for node in ast.walk(ast.parse((APP / (module.replace(".", "/") + ".py")).read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found.append(node.module or "")
    return tuple(found)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def layer(module: str) -> int:
    return LAYERS.index(max((prefix for prefix in LAYERS if within(module, prefix)), key=len))


def upward_imports(module: str) -> list[str]:
    return [name for name in imports(module) if within(name, "orderflow") and layer(name) > layer(module)]


def disallowed_packages(module: str) -> list[str]:
    seen = next((allowed for area, allowed in MAY_IMPORT.items() if within(module, area)), ("orderflow",))
    ours = [name for name in imports(module) if within(name, "orderflow")]
    return [name for name in ours if not any(within(name, allowed) for allowed in seen)]


def misplaced_libraries(module: str) -> list[str]:
    foreign = {name.split(".")[0] for name in imports(module)}
    return [
        library
        for library, owners in ONLY_IN.items()
        if library in foreign and not any(within(module, owner) for owner in owners)
    ]


def other_services(module: str) -> list[str]:
    parts = module.split(".")
    if not within(module, "orderflow.services") or len(parts) < 4:
        return []
    others = [name for name in imports(module) if within(name, "orderflow.services") and name.count(".") > 1]
    return [name for name in others if name.split(".")[2] != parts[2]]


def environment_reads(module: str) -> list[str]:
    if module == "orderflow.__main__" or "." not in module:
        return []
    source = (APP / (module.replace(".", "/") + ".py")).read_text()
    return [name for name in ("os.environ", "getenv") if name in source]


@pytest.mark.parametrize(
    "rule", [upward_imports, disallowed_packages, misplaced_libraries, other_services, environment_reads]
)
def test_no_module_imports_what_a_rule_forbids(rule: Callable[[str], list[str]]) -> None:
    assert len(MODULES) > 100
    assert {module: taken for module in MODULES if (taken := rule(module))} == {}


def test_a_consumer_imports_no_web_framework_and_no_terminal_library() -> None:
    """The imports of ``orderflow serve inventory``; each of these libraries would take tenths of a second."""
    program = (
        "import sys; from orderflow.bootstrap.serve import find_process; import orderflow.bootstrap.container;"
        "find_process('inventory'); import orderflow.services.inventory.handlers;"
        "print(*{'litestar', 'aiohttp', 'uvicorn', 'rich', 'requests', 'opentelemetry.sdk'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env={"PYTHONPATH": str(APP)}, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
