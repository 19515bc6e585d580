# SPDX-License-Identifier: Apache-2.0
"""orderflow: message-driven order processing on RabbitMQ that can be seen and proven."""
