# SPDX-License-Identifier: Apache-2.0
"""Renders, applies and compares the broker's topology."""
