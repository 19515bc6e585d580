# SPDX-License-Identifier: Apache-2.0
"""What is seen of a process: metrics, traces, logs, health. The only importer of prometheus_client and opentelemetry."""
