# SPDX-License-Identifier: Apache-2.0
"""The examples of CONTRIBUTING.md and docs/extend.md, applied to a copy of the tree."""

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.rigs.extended_tree import ROOT, ExtendedTree

SECTIONS = ("A service", "An event", "A metric", "A setting", "A migration")
LOYALTY = "services/loyalty/"

REPORT = """
import json
from datetime import UTC, datetime
from uuid import uuid4
from prometheus_client import CollectorRegistry, generate_latest
from orderflow.bootstrap.serve import MEANINGS, find_process
from orderflow.broker_topology import definitions, mistakes
from orderflow.database_schema import database_schema
from orderflow.events import decode
from orderflow.messaging.service import Incoming
from orderflow.reference import documents
from orderflow.services import SERVICES
from orderflow.services.loyalty.handlers import LoyaltyUpdates
from orderflow.settings import Settings
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.metrics.service_recorder import ServiceRecorder
from orderflow.telemetry.tracing.tracer import Tracing

registry, body = CollectorRegistry(), {
    "event_type": "POINTS_EARNED", "timestamp": "2026-01-01T00:00:00Z", "points": 7, "user_id": "u", "currency": "EUR",
    "total_amount": 700, "order_id": "00000000-0000-7000-8000-000000000000",
}

class Transaction:
    now = datetime.now(UTC)
    def execute(self, statement, parameters=None):
        self.parameters = parameters

transaction, lines = Transaction(), [{"sku": "a", "quantity": 1, "unit_price": 700}]
order = {**body, "event_type": "ORDER_CONFIRMED", "items": lines}
(done,) = LoyaltyUpdates(2).handle([Incoming(uuid4(), decode(json.dumps(order).encode()), 0)], transaction)
ServiceRecorder(MetricRegistry(registry), None).stock_moved("reserve", 2)
broker = definitions(SERVICES, vhost="/")
print(json.dumps({
    "mistakes": mistakes(SERVICES),
    "meaning": MEANINGS["loyalty"],
    "needs": sorted(find_process("loyalty")[1].needs),
    "queues": [queue.name for queue in broker.queues],
    "users": [user.name for user in broker.users],
    "writes": {entry.user: entry.write for entry in broker.topic_permissions if entry.exchange == "order_events"},
    "handled": [transaction.parameters, [type(event).__name__ for event in done.events]],
    "event": type(decode(json.dumps(body).encode())).__name__,
    "metrics": generate_latest(registry).decode(),
    "points": Settings.from_env({"ORDERFLOW_LOYALTY_POINTS": "3"}).loyalty_points,
    "migrations": [str(migration) for migration in database_schema("loyalty")[1].migrations],
    "documents": documents(),
}))
"""


Changes = Mapping[str, Mapping[str, tuple[int, int]]]
"""Lines added and removed, by section of the page and file."""
Report = Mapping[str, Any]
"""The report of a process of the extended copy."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> ExtendedTree:
    return ExtendedTree(tmp_path_factory.mktemp("extended"))


@pytest.fixture(scope="module")
def changes(tree: ExtendedTree) -> Changes:
    return {section: tree.apply(section) for section in SECTIONS}


@pytest.fixture(scope="module")
def report(tree: ExtendedTree, changes: Changes) -> Report:
    found: Report = json.loads(tree.run("-c", REPORT))
    return found


def elsewhere(changes: Mapping[str, tuple[int, int]], *own: str) -> dict[str, tuple[int, int]]:
    return {path: lines for path, lines in changes.items() if not path.startswith(own)}


def python_files(changes: Changes) -> list[str]:
    return sorted({path for section in changes.values() for path in section if path.endswith(".py")})


def test_the_table_in_contributing_names_where_each_extension_begins(changes: Changes) -> None:
    table = {
        line.split("|")[1].strip(): line.split("|")[2]
        for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines()
        if line.startswith("| a")
    }
    for section, place in (
        ("A service", "`app/orderflow/services/__init__.py`"),
        ("An event", "`app/orderflow/events.py`"),
        ("A metric", "`app/orderflow/telemetry/metrics/catalogue.py`"),
        ("A setting", "`app/orderflow/settings.py`"),
        ("A migration", "`schema/`"),
    ):
        assert place in table[section.lower()]
        assert any(place.strip("`").removeprefix("app/orderflow/") in path for path in changes[section])


def test_a_service_is_one_folder_and_one_line(changes: Changes, report: Report) -> None:
    assert elsewhere(changes["A service"], LOYALTY) == {"services/__init__.py": (1, 0)}
    assert (report["meaning"], report["needs"]) == ("counts points", ["amqp", "database"])
    assert {"loyalty_updates", "loyalty_updates.retry.5m"} <= set(report["queues"])
    assert "loyalty" in report["users"]
    assert "| loyalty | `dlx` |" in report["documents"]["topology.md"]
    assert report["handled"] == [{"users": ["u"], "points": [14]}, ["PointsEarned"]]


def test_an_event_is_one_class_and_its_use(changes: Changes, report: Report) -> None:
    use = {"instrumentation.py", "services/notifications/__init__.py", "services/notifications/domain.py"}
    assert set(elsewhere(changes["An event"], LOYALTY)) == {"events.py", *use}
    assert report["mistakes"] == []
    assert report["event"] == "PointsEarned"
    assert "points\\.earned" in report["writes"]["loyalty"]
    assert "## POINTS_EARNED\n" in report["documents"]["messages.md"]
    assert "schemas/POINTS_EARNED.json" in report["documents"]


def test_a_metric_is_one_entry_and_the_line_that_feeds_it(changes: Changes, report: Report) -> None:
    fed = "telemetry/metrics/service_recorder.py"
    assert changes["A metric"] == {"telemetry/metrics/catalogue.py": (1, 0), fed: (1, 0)}
    assert 'orderflow_stock_moves_total{move="reserve"} 1.0\n' in report["metrics"]
    assert "`orderflow_stock_moves_total`" in report["documents"]["metrics.md"]


def test_a_setting_is_one_field_and_its_use(changes: Changes, report: Report) -> None:
    assert changes["A setting"]["settings.py"] == (1, 0)
    assert list(elsewhere(changes["A setting"], LOYALTY)) == ["settings.py"]
    assert report["points"] == 3
    assert "| `ORDERFLOW_LOYALTY_POINTS` | `1` |" in report["documents"]["settings.md"]


def test_a_migration_is_one_numbered_file(changes: Changes, report: Report) -> None:
    assert list(changes["A migration"]) == ["services/loyalty/schema/0002_last_order.sql"]
    assert report["migrations"] == ["loyalty 0001 (points)", "loyalty 0002 (last_order)"]


def test_the_extensions_import_nothing_that_the_rules_forbid(tree: ExtendedTree, changes: Changes) -> None:
    copy = tree.folder / "tests/catalogue/test_imports.py"
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / "tests/catalogue/test_imports.py").read_text())
    spec = importlib.util.spec_from_file_location("imports_of_the_copy", copy)
    assert spec is not None and spec.loader is not None
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    modules = {f"orderflow.{path.removesuffix('.py').replace('/', '.')}" for path in python_files(changes)}
    assert modules <= set(rules.MODULES)
    for rule in (rules.upward_imports, rules.disallowed_packages, rules.misplaced_libraries, rules.other_services):
        assert {module: taken for module in modules if (taken := rule(module))} == {}
