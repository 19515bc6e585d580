# SPDX-License-Identifier: Apache-2.0
"""A trace store for one machine."""
