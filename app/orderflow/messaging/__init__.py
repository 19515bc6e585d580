# SPDX-License-Identifier: Apache-2.0
"""The messaging core: from a queue through one transaction to confirmed publishes. Imports no service."""
