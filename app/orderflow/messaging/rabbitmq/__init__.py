# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ through pika: the only room of the core that imports pika."""
