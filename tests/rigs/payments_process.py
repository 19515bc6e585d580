# SPDX-License-Identifier: Apache-2.0
"""The calls of payments as a process of their own, so that a test can kill it: database URL, provider
URL, seconds of a lease."""

import sys
import threading

from tests.rigs.payments import Payments


def main(database_url: str, provider_url: str, lease_seconds: str) -> None:
    with Payments(database_url, provider_url, timeout_seconds=30, lease_seconds=float(lease_seconds)):
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
