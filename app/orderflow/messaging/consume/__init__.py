# SPDX-License-Identifier: Apache-2.0
"""From a queue to a commit: receive a batch, apply it once, settle every message."""
