# SPDX-License-Identifier: Apache-2.0
"""A payment provider for tests and demonstrations: a separate process that moves no money."""
