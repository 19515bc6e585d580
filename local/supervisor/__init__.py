# SPDX-License-Identifier: Apache-2.0
"""Keeps programs running, and stops them all."""
