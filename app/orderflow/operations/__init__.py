# SPDX-License-Identifier: Apache-2.0
"""What operators run: dead letters, migrations, topology, the reconciler."""
