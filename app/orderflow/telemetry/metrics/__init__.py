# SPDX-License-Identifier: Apache-2.0
"""The metrics: their types, the catalogue, the registry, and the recorders that feed them."""
