# SPDX-License-Identifier: Apache-2.0
"""Recomputes from the databases whether every promise holds."""
