# SPDX-License-Identifier: Apache-2.0
"""Measurements: the pipeline as a whole, and the consumer core beside a peer in the same run."""
