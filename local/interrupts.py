# SPDX-License-Identifier: Apache-2.0
"""Signals that end a program of the bundle."""

import signal


def stop_on_terminate() -> None:
    """Make SIGTERM and a closed terminal end this program as Ctrl-C does, so that its supervisors stop what they run.

    SIGINT too: a shell starts programs in the background with SIGINT ignored. Under nohup SIGHUP stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
