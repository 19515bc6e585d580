# SPDX-License-Identifier: Apache-2.0
"""orderflow: observable and verifiable order processing on RabbitMQ."""
