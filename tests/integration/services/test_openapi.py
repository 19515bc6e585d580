# SPDX-License-Identifier: Apache-2.0
"""Both APIs match their OpenAPI documents: schemathesis sends them valid and invalid requests."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from local.eventually import eventually
from local.servers.stack import Stack
from local.system import ROOT, System
from tests.rigs.openapi_hooks import SKUS

pytestmark = pytest.mark.integration

ORDER: Any = {"user_id": "u", "items": [{"sku": sku, "quantity": 1} for sku in SKUS], "payment_token": "ok"}


@pytest.fixture(scope="module")
def system(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("openapi")
    with System.started(stack, folder, environ={"OTEL_SDK_DISABLED": "true"}, name="openapi") as started:
        for sku in SKUS:
            started.set_stock(sku, 2**31 - 1, unit_price=1)
        eventually(lambda: can_order(started), seconds=20, what="the orders API knows the stock")
        yield started


def can_order(system: System) -> bool:
    headers = {"Authorization": f"Bearer {system.orders_key}", "Idempotency-Key": str(uuid4())}
    return requests.post(f"{system.orders_api}/v1/orders", json=ORDER, headers=headers, timeout=5).status_code == 202


def findings(url: str, key: str, folder: Path) -> str:
    """The report of schemathesis, with every check and phase and the same requests each time."""
    argv = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/docs/openapi.json"]
    argv += ["--checks", "all", "--generation-deterministic", "--max-examples", "60", "--no-color"]
    argv += ["--header", f"Authorization: Bearer {key}"]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'app'}:{ROOT}", "SCHEMATHESIS_HOOKS": "tests.rigs.openapi_hooks"}
    done = subprocess.run(argv, env=environ, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(("api", "operations"), [("orders", 3), ("stock", 2)])
def test_schemathesis_finds_nothing(system: System, tmp_path: Path, api: str, operations: int) -> None:
    url, key = {
        "orders": (system.orders_api, system.orders_key),
        "stock": (system.inventory_api, system.stock_key),
    }[api]
    report = findings(url, key, tmp_path)
    assert "No issues found" in report, report
    assert f"Tested: {operations}" in report, report
    generated = re.search(r"(\d+) generated, (\d+) passed", report)
    assert generated and int(generated[2]) > 150, report
