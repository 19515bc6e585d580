# SPDX-License-Identifier: Apache-2.0
"""Starts, restarts and stops processes."""
