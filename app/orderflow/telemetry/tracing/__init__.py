# SPDX-License-Identifier: Apache-2.0
"""Tracing: spans, propagation, semantic conventions, the OpenTelemetry SDK."""
