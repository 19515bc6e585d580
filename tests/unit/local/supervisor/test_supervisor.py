# SPDX-License-Identifier: Apache-2.0
"""The supervisor, with tiny real programs."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.eventually import eventually
from local.supervisor import supervisor as supervisor_module
from local.supervisor.supervisor import ProcessFailed, ProcessSpec, RestartBackoff, Supervisor

QUICK = RestartBackoff(first_seconds=0.02, most_seconds=0.05)
CHECKOUT = Path(__file__).parents[4]


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def supervisor(reports: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(supervisor_module, "_TICK_SECONDS", 0.002)
    with Supervisor(backoff=QUICK, report=reports.append) as running:
        yield running


def shell(script: str, tmp_path: Path, *, name: str = "program", **options: object) -> ProcessSpec:
    return ProcessSpec(name=name, argv=["sh", "-c", script], log=tmp_path / f"{name}.log", **options)  # type: ignore[arg-type]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read_pid(file: Path) -> int:
    eventually(lambda: file.exists() and file.read_text().strip())
    return int(file.read_text())


def test_a_crashed_process_is_started_again_each_time_it_ends(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(shell("sleep 60", tmp_path))
    for crash in (1, 2, 3):
        before = supervisor.pid("program")
        supervisor.kill("program")
        assert not is_running(before)
        supervisor.wait_ready("program")
        assert supervisor.pid("program") != before
        assert supervisor.exits("program") == [-signal.SIGKILL] * crash


def test_a_process_that_others_are_preferred_to_is_so_again_after_a_restart(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(shell("exec sleep 60", tmp_path, niceness=7))
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for _ in range(2):
        assert os.getpriority(os.PRIO_PROCESS, supervisor.pid("program")) == min(19, own + 7)
        supervisor.kill("program")
        supervisor.wait_ready("program")


def test_the_back_off_doubles_up_to_a_limit_and_is_halved_at_most_by_chance() -> None:
    backoff = RestartBackoff(first_seconds=1, most_seconds=10)
    assert [backoff.delay(crash, 0.0) for crash in (1, 2, 3, 4, 5, 1000)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay(2, 0.5) == 1.5
    assert backoff.delay(5, 0.999999) == pytest.approx(5, abs=1e-4)


def test_a_restart_is_reported_with_the_exit_code(supervisor: Supervisor, tmp_path: Path, reports: list[str]) -> None:
    supervisor.start(shell(f"test -e {tmp_path}/second && exec sleep 60; touch {tmp_path}/second; exit 7", tmp_path))
    assert supervisor.exits("program") in ([], [7])  # without a readiness check, ready means started
    eventually(lambda: supervisor.exits("program") == [7] and supervisor.pids())
    assert len(reports) == 1
    assert reports[0].startswith("program ended (7), starting it again in 0.0")


def test_a_process_that_is_not_to_be_restarted_stays_down(
    supervisor: Supervisor, tmp_path: Path, reports: list[str]
) -> None:
    supervisor.start(shell("sleep 60", tmp_path, restart=False))
    supervisor.kill("program")
    eventually(lambda: reports == ["program ended (-9)"])
    assert supervisor.pids() == {}


def test_a_held_process_stays_down_until_it_is_resumed(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(shell("sleep 60", tmp_path))
    supervisor.kill("program", hold=True)
    with pytest.raises(ProcessFailed, match="program is not running"):
        supervisor.pid("program")
    supervisor.resume("program")
    assert is_running(supervisor.pid("program"))


def test_stop_ends_the_whole_group_also_what_ignores_the_signal(supervisor: Supervisor, tmp_path: Path) -> None:
    script = f"sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/child; sleep 60 & wait' & wait"
    supervisor.start(shell(script, tmp_path))
    leader, child = supervisor.pid("program"), read_pid(tmp_path / "child")
    supervisor.stop("program")
    eventually(lambda: not is_running(leader) and not is_running(child))


def test_a_process_that_does_not_stop_in_its_grace_is_killed(
    supervisor: Supervisor, tmp_path: Path, reports: list[str]
) -> None:
    script = f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 60; done"
    supervisor.start(shell(script, tmp_path, ready=(tmp_path / "up").exists))
    supervisor.stop("program", grace_seconds=0.05)
    assert supervisor.exits("program") == [-signal.SIGKILL]
    assert reports == ["program did not stop in time and is killed"]


@pytest.fixture(params=["foreground", "background"])
def ground(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the foreground or not: a shell starts background programs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if request.param == "background" else None
    yield
    if before is not None:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ground")
def test_a_process_can_shut_down_on_its_own_stop_signal(supervisor: Supervisor, tmp_path: Path) -> None:
    script = f"trap 'echo bye; exit 3' INT; touch {tmp_path}/up; while :; do sleep 0.01; done"
    supervisor.start(shell(script, tmp_path, ready=(tmp_path / "up").exists, stop_signal=signal.SIGINT))
    supervisor.stop("program")
    assert supervisor.exits("program") == [3]
    assert "bye" in (tmp_path / "program.log").read_text()


def test_processes_start_after_those_they_need_are_ready(supervisor: Supervisor, tmp_path: Path) -> None:
    asked: list[str] = []

    def ready_when_asked(name: str, times: int) -> Callable[[], bool]:
        def ready() -> bool:
            asked.append(name)
            return asked.count(name) == times

        return ready

    second = shell("sleep 60", tmp_path, name="second", start_after=("first",), ready=ready_when_asked("second", 1))
    supervisor.start(second, shell("sleep 60", tmp_path, name="first", ready=ready_when_asked("first", 4)))
    assert asked == ["first"] * 4 + ["second"]


def test_dependents_are_stopped_first(supervisor: Supervisor, tmp_path: Path) -> None:
    def noting(name: str, **options: object) -> ProcessSpec:
        up, ends = tmp_path / f"{name}-up", tmp_path / "ends"
        script = f"trap 'echo {name} >> {ends}; exit' TERM; touch {up}; while :; do sleep 0.01; done"
        return shell(script, tmp_path, name=name, ready=up.exists, **options)

    supervisor.start(noting("server"), noting("service", start_after=("server",)))
    supervisor.stop_all()
    assert (tmp_path / "ends").read_text().split() == ["service", "server"]


def test_processes_that_wait_for_each_other_are_refused(supervisor: Supervisor, tmp_path: Path) -> None:
    one = shell("sleep 60", tmp_path, name="one", start_after=("other",))
    other = shell("sleep 60", tmp_path, name="other", start_after=("one",))
    with pytest.raises(ValueError, match="wait for each other"):
        supervisor.start(one, other)
    with pytest.raises(ValueError, match="names nothing-known, which is unknown"):
        supervisor.start(shell("sleep 60", tmp_path, start_after=("nothing-known",)))


def test_a_readiness_that_never_comes_fails_with_the_last_twenty_lines(supervisor: Supervisor, tmp_path: Path) -> None:
    spec = shell("seq 1 100; exec sleep 60", tmp_path, ready=lambda: False, ready_seconds=0.2)
    with pytest.raises(ProcessFailed) as failure:
        supervisor.start(spec)
    first, *lines = str(failure.value).splitlines()
    assert first.startswith("program was not ready after 0.2 s")
    assert lines == [str(number) for number in range(81, 101)]


def test_a_process_that_keeps_ending_before_it_is_ready_fails_early(supervisor: Supervisor, tmp_path: Path) -> None:
    spec = shell("echo wrong settings; exit 2", tmp_path, ready=lambda: False, ready_seconds=60)
    with pytest.raises(
        ProcessFailed, match=r"(?s)ended before it was ready \(exit codes \[2, 2, 2\]\).*wrong settings"
    ):
        supervisor.start(spec)


def test_a_program_that_does_not_exist_fails_with_its_name(supervisor: Supervisor, tmp_path: Path) -> None:
    spec = ProcessSpec(name="ghost", argv=["no-such-program"], log=tmp_path / "log", ready=lambda: False)
    with pytest.raises(ProcessFailed, match=r"(?s)ghost ended.*no-such-program"):
        supervisor.start(spec)


def test_a_folder_that_does_not_exist_fails_and_others_go_on(
    supervisor: Supervisor, tmp_path: Path, reports: list[str]
) -> None:
    supervisor.start(shell("sleep 60", tmp_path))
    with pytest.raises(ProcessFailed, match="lost ended before it was ready"):
        supervisor.start(shell("sleep 60", tmp_path, name="lost", directory=tmp_path / "nowhere"))
    assert any(line.startswith("lost cannot be started: [Errno 2]") and "nowhere" in line for line in reports)
    assert is_running(supervisor.pid("program"))


def test_a_report_that_fails_does_no_harm(tmp_path: Path) -> None:
    def broken(_line: str) -> None:
        raise BrokenPipeError

    with Supervisor(backoff=QUICK, report=broken) as supervisor:
        supervisor.start(shell("sleep 60", tmp_path))
        supervisor.kill("program")
        supervisor.wait_ready("program")


def test_a_refused_connection_counts_as_not_ready(supervisor: Supervisor, tmp_path: Path) -> None:
    results = iter([ConnectionRefusedError("not yet"), TimeoutError("not yet"), True])

    def ready() -> bool:
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return True

    supervisor.start(shell("sleep 60", tmp_path, ready=ready))
    assert list(results) == []


def test_the_environment_and_folder_are_those_given(supervisor: Supervisor, tmp_path: Path) -> None:
    spec = shell("echo $GREETING in $PWD; exec sleep 60", tmp_path, env={"GREETING": "hello"}, directory=tmp_path)
    supervisor.start(spec)
    eventually(lambda: spec.log.read_text().strip() == f"hello in {tmp_path}")


def test_a_running_process_is_not_started_twice(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(shell("sleep 60", tmp_path))
    with pytest.raises(ValueError, match="program is already running"):
        supervisor.start(shell("sleep 60", tmp_path))


def test_an_exception_in_the_block_stops_everything(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupted() -> None:
        with Supervisor() as supervisor:
            supervisor.start(shell("sleep 60", tmp_path))
            pids.append(supervisor.pid("program"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not is_running(pids[0])


def test_processes_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    program = f"""
        import threading
        from pathlib import Path
        from local.supervisor.supervisor import ProcessSpec, Supervisor

        supervisor = Supervisor()
        supervisor.start(ProcessSpec(name="program", argv=["sleep", "60"], log=Path({str(tmp_path / "log")!r})))
        print(supervisor.pid("program"), flush=True)
        threading.Event().wait()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    eventually(lambda: not is_running(pid))


def test_only_an_unrequested_end_is_reported_as_a_failure(supervisor: Supervisor, tmp_path: Path) -> None:
    for name in ("stopped", "killed", "ended", "shot"):
        supervisor.start(shell("sleep 60" if name != "ended" else "sleep 0.05", tmp_path, name=name))
    supervisor.stop("stopped")
    supervisor.kill("killed")
    os.kill(supervisor.pid("shot"), signal.SIGKILL)
    eventually(lambda: supervisor.unrequested_exits().keys() == {"ended", "shot"})
    found = supervisor.unrequested_exits()
    assert (set(found["ended"]), found["shot"]) == ({0}, [-signal.SIGKILL])
