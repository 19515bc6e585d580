# SPDX-License-Identifier: Apache-2.0
"""``python -m local.servers``: the servers in the foreground, until Ctrl-C."""

import sys

from local.servers.stack import main

if __name__ == "__main__":
    sys.exit(main())
