# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest

from tests.bench import process_cpu
from tests.bench.process_cpu import cpu_seconds

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)                       # it has ended
subprocess.Popen([sys.executable, "-c", {BURN!r} + "print(flush=True)\\ninput()"])  # it still runs
input()
"""


def test_children_count_also_those_that_have_ended() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        found = cpu_seconds({"parent": parent.pid, "us": os.getpid()})
        parent.kill()
    assert found["parent"] > 0.55
    assert found["us"] > found["parent"]


def test_a_root_that_has_ended_is_reported() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    with pytest.raises(ProcessLookupError, match=str(ended.pid)):
        cpu_seconds({"ended": ended.pid})


def test_a_process_that_ends_while_the_others_are_read_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = process_cpu._read
    child = subprocess.Popen([sys.executable, "-c", BURN + "print(flush=True)\ninput()"], stdin=-1, stdout=-1)
    with child:
        assert child.stdout is not None
        child.stdout.readline()

        def read_while_it_ends(pid: int) -> process_cpu._Process | None:
            process = read(pid)
            if pid == os.getpid() and child.returncode is None:  # we were read before it has ended
                child.kill()
                child.wait()
            return process

        before = cpu_seconds({"us": os.getpid()})["us"]
        monkeypatch.setattr(process_cpu, "_read", read_while_it_ends)
        assert before <= cpu_seconds({"us": os.getpid()})["us"] < before + 0.25
