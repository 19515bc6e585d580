# SPDX-License-Identifier: Apache-2.0
"""Measurements: what an order costs, and the consumer core beside other consumers in the same run."""
