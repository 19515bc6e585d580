# SPDX-License-Identifier: Apache-2.0
"""What operators run: dead letters, topology, the reconciler, the payment simulator."""
