# SPDX-License-Identifier: Apache-2.0
"""The composition root: the only place that puts services, telemetry and broker together."""
