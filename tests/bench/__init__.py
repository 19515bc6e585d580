# SPDX-License-Identifier: Apache-2.0
"""Measurements: the whole pipeline, and the consumer core against a peer in the same run."""
