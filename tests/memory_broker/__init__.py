# SPDX-License-Identifier: Apache-2.0
"""A broker in memory that keeps the promises of the `Broker` interface; the second subject of the contract suite."""
