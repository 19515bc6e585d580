# SPDX-License-Identifier: Apache-2.0
"""``python -m local.trace_store``: the trace store in the foreground, until Ctrl-C."""

import sys

from local.trace_store.server import main

if __name__ == "__main__":
    sys.exit(main())
