# SPDX-License-Identifier: Apache-2.0
"""Signals that stop a program of ``local``."""

import signal


def stop_on_terminate() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that supervisors stop their processes.

    SIGINT is set too, because a shell starts background programs with SIGINT ignored. Under nohup SIGHUP stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
