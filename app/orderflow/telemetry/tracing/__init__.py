# SPDX-License-Identifier: Apache-2.0
"""The traces: spans, propagation, semantic conventions, the OpenTelemetry SDK."""
