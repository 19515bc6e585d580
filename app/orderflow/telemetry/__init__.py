# SPDX-License-Identifier: Apache-2.0
"""What is seen of a process: metrics, traces, logs, health; alone imports prometheus_client and opentelemetry."""
