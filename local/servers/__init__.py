# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ, PostgreSQL, Prometheus and Alertmanager as processes of this machine."""
