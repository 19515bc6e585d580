# SPDX-License-Identifier: Apache-2.0
"""orderflow on one Linux machine, without Kubernetes: the servers and services as plain processes."""
