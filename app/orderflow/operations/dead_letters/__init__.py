# SPDX-License-Identifier: Apache-2.0
"""Lists, replays and discards dead letters."""
