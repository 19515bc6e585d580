# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ through pika: the only package of the core that imports pika."""
