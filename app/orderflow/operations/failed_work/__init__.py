# SPDX-License-Identifier: Apache-2.0
"""Commands for work that was given up and waits for an operator: refunds, notifications, events of the outbox."""
