# SPDX-License-Identifier: Apache-2.0
"""Metrics, traces, logs and health of a process; the only package that imports prometheus_client and opentelemetry."""
