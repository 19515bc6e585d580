# SPDX-License-Identifier: Apache-2.0
"""Prometheus and Alertmanager on loopback."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local.servers.enclosed_server import EnclosedServer, ServerContext, responds

DETAILED_FAMILIES = (
    "queue_coarse_metrics",
    "queue_metrics",
    "queue_delivery_metrics",
    "queue_exchange_metrics",
    "exchange_metrics",
    "ra_metrics",
)
"""The families that are scraped from the broker's /metrics/detailed."""
BROKER_JOB = "rabbitmq"
"""The job whose targets are brokers: they are scraped at /metrics and at /metrics/detailed."""


class Alertmanager(EnclosedServer):
    """Sends every alert to ``webhook`` (a loopback URL; empty: alerts are not sent), grouped by name."""

    name = "alertmanager"
    account = "prometheus"

    def __init__(self, context: ServerContext, *, webhook: str = "") -> None:
        super().__init__(context)
        self._webhook = webhook

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        """Whether it serves."""
        return responds(f"{self.url}/-/ready")

    def _write_files(self) -> None:
        webhooks = [{"url": self._webhook, "send_resolved": True}] if self._webhook else []
        route = {"receiver": "webhook", "group_by": ["alertname"], "group_wait": "1s", "group_interval": "5s"}
        config = {"route": route, "receivers": [{"name": "webhook", "webhook_configs": webhooks}]}
        _write_yaml(self.directory / "alertmanager.yml", config)

    def _command(self) -> Sequence[str]:
        return [
            "/usr/bin/prometheus-alertmanager",
            "--config.file=/data/alertmanager.yml",
            "--storage.path=/data/state",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]


class Prometheus(EnclosedServer):
    """Scrapes ``targets`` (job to "host:port"s, at /metrics) and evaluates ``rule_files``; keeps exemplars."""

    name = "prometheus"
    account = "prometheus"

    def __init__(
        self,
        context: ServerContext,
        *,
        targets: Mapping[str, Sequence[str]],
        rule_files: Sequence[Path] = (),
        alertmanager: str = "",
        interval_seconds: int = 5,
    ) -> None:
        super().__init__(context)
        self._targets = dict(targets)
        self._rule_files = tuple(rule_files)
        self._alertmanager = alertmanager
        self._interval = f"{interval_seconds}s"

    @property
    def url(self) -> str:
        """Base URL of its API and UI."""
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        """Whether it serves queries."""
        return responds(f"{self.url}/-/ready")

    def set_targets(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Replace the targets; rule files are read again too."""
        self._targets = dict(targets)
        self.prepare()
        os.kill(self.pid, signal.SIGHUP)

    def _write_files(self) -> None:
        rules = self.directory / "rules"
        rules.mkdir(exist_ok=True)
        for number, file in enumerate(self._rule_files):
            (rules / f"{number:03}-{file.name}").write_text(file.read_text())
        _write_yaml(self.directory / "prometheus.yml", self._config())

    def _config(self) -> dict[str, Any]:
        jobs = [{"job_name": job, **_static(addresses)} for job, addresses in self._targets.items()]
        if brokers := self._targets.get(BROKER_JOB):
            detailed = {"metrics_path": "/metrics/detailed", "params": {"family": list(DETAILED_FAMILIES)}}
            jobs.append({"job_name": f"{BROKER_JOB}-detailed", **detailed, **_static(brokers)})
        config: dict[str, Any] = {
            "global": {"scrape_interval": self._interval, "evaluation_interval": self._interval},
            "rule_files": ["/data/rules/*.yaml", "/data/rules/*.yml"],
            "scrape_configs": jobs,
        }
        if self._alertmanager:
            config["alerting"] = {"alertmanagers": [_static([self._alertmanager])]}
        return config

    def _command(self) -> Sequence[str]:
        return [
            "/usr/bin/prometheus",
            "--config.file=/data/prometheus.yml",
            "--storage.tsdb.path=/data/tsdb",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--enable-feature=exemplar-storage",
        ]


def _static(addresses: Sequence[str]) -> dict[str, Any]:
    return {"static_configs": [{"targets": list(addresses)}]}


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))  # JSON is YAML
