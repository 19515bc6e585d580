# SPDX-License-Identifier: Apache-2.0
"""A payment provider for tests and demonstrations: a process of its own that moves no money."""
