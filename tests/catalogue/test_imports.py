# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: __main__ → run → {services, telemetry, operations} → messaging."""

import ast
from functools import cache
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
PACKAGE = APP / "orderflow"
MODULES = sorted(path.relative_to(APP).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py"))

# What each area may import of ours. Longest prefix wins; a prefix stands for everything under it.
MAY_IMPORT = {
    "orderflow.messages": (),
    "orderflow.settings": ("orderflow.messaging.errors", "orderflow.http.keys"),
    "orderflow.messaging": ("orderflow.messaging", "orderflow.messages"),
    "orderflow.services": ("orderflow.messaging", "orderflow.messages", "orderflow.services", "orderflow.http"),
    "orderflow.http": ("orderflow.http", "orderflow.messaging", "orderflow.services.moments"),
    "orderflow.telemetry": (
        "orderflow.telemetry",
        "orderflow.messaging",
        "orderflow.messages",
        "orderflow.services.moments",
        "orderflow.settings",
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


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_area_may(module: str) -> None:
    area = max((prefix for prefix in MAY_IMPORT if within(module, prefix)), key=len)
    ours = [name for name in imports(module) if within(name, "orderflow")]
    assert [name for name in ours if not any(within(name, allowed) for allowed in MAY_IMPORT[area])] == []


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_behind_their_seams(module: str) -> None:
    foreign = {name.split(".")[0] for name in imports(module)}
    offenders = [
        library
        for library, owners in ONLY_IN.items()
        if library in foreign and not any(within(module, owner) for owner in owners)
    ]
    assert offenders == []


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, "orderflow.services")])
def test_services_never_import_each_other(module: str) -> None:
    parts = module.split(".")
    if len(parts) < 4:
        return
    others = [name for name in imports(module) if within(name, "orderflow.services") and name.count(".") > 1]
    assert [name for name in others if name.split(".")[2] not in {parts[2], "moments"}] == []


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_takes_up_the_environment(module: str) -> None:
    source = (APP / (module.replace(".", "/") + ".py")).read_text() if "." in module else ""
    if module != "orderflow.__main__":
        assert "os.environ" not in source
        assert "getenv" not in source
