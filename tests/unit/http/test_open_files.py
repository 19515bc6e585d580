# SPDX-License-Identifier: Apache-2.0
"""The soft limit of open files is raised as far as the connections need; the hard limit bounds them."""

import logging
import resource

import pytest

from orderflow.http.open_files import connections_allowed


class OpenFiles:
    """The limits of a process, as the operating system keeps them."""

    def __init__(self, soft: int, hard: int) -> None:
        self.limits = (soft, hard)

    def get(self, _kind: int) -> tuple[int, int]:
        return self.limits

    def set(self, _kind: int, limits: tuple[int, int]) -> None:
        self.limits = limits


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "soft_then"),
    [
        (1024, 4096, 2000, 2128),
        (1024, resource.RLIM_INFINITY, 2000, 2128),
        (65536, 65536, 2000, 65536),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2000, resource.RLIM_INFINITY),
        (512, 1024, 896, 1024),
        (64, 64, 1, 64),
    ],
)
def test_there_is_a_file_for_each_connection(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    soft: int,
    hard: int,
    allowed: int,
    soft_then: int,
) -> None:
    files = OpenFiles(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", files.get)
    monkeypatch.setattr(resource, "setrlimit", files.set)
    with caplog.at_level(logging.WARNING):
        assert connections_allowed(2000) == allowed
    assert files.limits == (soft_then, hard)
    assert [record.getMessage() for record in caplog.records] == (["http.few_files"] if allowed < 2000 else [])
