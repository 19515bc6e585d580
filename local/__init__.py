# SPDX-License-Identifier: Apache-2.0
"""orderflow on one Linux machine, without Kubernetes: servers and services run as plain processes.

``python -m local.…`` works in a checkout without an installed orderflow: this package puts ``app/`` on the path.
"""

import sys
from pathlib import Path

APP = str(Path(__file__).parents[1] / "app")

if APP not in sys.path:
    sys.path.insert(0, APP)
