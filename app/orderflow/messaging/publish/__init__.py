# SPDX-License-Identifier: Apache-2.0
"""From a commit to the broker: the outbox, the unit of work, the relay, the confirm window."""
