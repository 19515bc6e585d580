# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: __main__ → run → {services, telemetry, operations} → messaging."""

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
PACKAGE = APP / "orderflow"
MODULES = sorted(path.relative_to(APP).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py"))

# What each area may import of ours. Longest prefix wins; a prefix stands for everything under it.
MAY_IMPORT = {
    "orderflow.messages": (),
    "orderflow.version": (),
    "orderflow.settings": ("orderflow.messaging.errors", "orderflow.http.keys"),
    "orderflow.messaging": ("orderflow.messaging", "orderflow.messages"),
    "orderflow.services": ("orderflow.messaging", "orderflow.messages", "orderflow.services", "orderflow.http"),
    "orderflow.http": ("orderflow.http", "orderflow.messaging", "orderflow.services.moments", "orderflow.version"),
    "orderflow.telemetry": (
        "orderflow.telemetry",
        "orderflow.messaging",
        "orderflow.messages",
        "orderflow.services.moments",
        "orderflow.settings",
        "orderflow.version",
    ),
    "orderflow.definitions": (),
    "orderflow.topology": (
        "orderflow.definitions",
        "orderflow.messages",
        "orderflow.messaging",
        "orderflow.services",
    ),
    "orderflow.process": ("orderflow.messaging",),
    "orderflow": ("orderflow",),
}
# Who may import these packages from outside; everybody else may not.
ONLY_IN = {
    "pika": ("orderflow.messaging.rabbitmq", "orderflow.operations", "orderflow.telemetry.pika_adapter"),
    "psycopg": ("orderflow.messaging.database",),
    "prometheus_client": ("orderflow.telemetry",),
    "opentelemetry": ("orderflow.telemetry",),
    "litestar": ("orderflow.http", "orderflow.services"),
    "uvicorn": ("orderflow.http", "orderflow.operations.payment_simulator"),
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


def beyond_its_area(module: str) -> list[str]:
    area = max((prefix for prefix in MAY_IMPORT if within(module, prefix)), key=len)
    ours = [name for name in imports(module) if within(name, "orderflow")]
    return [name for name in ours if not any(within(name, allowed) for allowed in MAY_IMPORT[area])]


def beyond_its_seam(module: str) -> list[str]:
    foreign = {name.split(".")[0] for name in imports(module)}
    return [
        library
        for library, owners in ONLY_IN.items()
        if library in foreign and not any(within(module, owner) for owner in owners)
    ]


def of_other_services(module: str) -> list[str]:
    parts = module.split(".")
    if not within(module, "orderflow.services") or len(parts) < 4:
        return []
    others = [name for name in imports(module) if within(name, "orderflow.services") and name.count(".") > 1]
    return [name for name in others if name.split(".")[2] not in {parts[2], "moments"}]


def of_the_environment(module: str) -> list[str]:
    if module == "orderflow.__main__" or "." not in module:
        return []
    source = (APP / (module.replace(".", "/") + ".py")).read_text()
    return [name for name in ("os.environ", "getenv") if name in source]


@pytest.mark.parametrize("rule", [beyond_its_area, beyond_its_seam, of_other_services, of_the_environment])
def test_no_module_takes_what_is_not_meant_for_it(rule: Callable[[str], list[str]]) -> None:
    assert len(MODULES) > 100
    assert {module: taken for module in MODULES if (taken := rule(module))} == {}
