# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from tests.bench.go_programs import GoUnavailable, build

GO = """#!/bin/sh
[ "$1" = version ] && { echo "go version $GO_VERSION"; exit; }
echo "$@" >>"$BUILDS"
[ -z "$FAIL" ] || { echo "first line" >&2; echo "$FAIL" >&2; exit 1; }
touch "$5idiomatic" "$5batched"
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    (folder / "idiomatic").mkdir(parents=True)
    (folder / "idiomatic/main.go").write_text("package main")
    return folder


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with a Go that only records what it is asked for."""
    go = tmp_path / "bin/go"
    go.parent.mkdir()
    go.write_text(GO)
    go.chmod(0o755)
    return {
        "PATH": f"{go.parent}:/usr/bin:/bin",
        "ORDERFLOW_CACHE": str(tmp_path / "cache"),
        "BUILDS": str(tmp_path / "builds"),
        "GO_VERSION": "go1.25",
    }


def builds(environ: dict[str, str]) -> int:
    return len(Path(environ["BUILDS"]).read_text().splitlines())


def test_the_programs_are_built_once_outside_the_checkout(sources: Path, environ: dict[str, str]) -> None:
    lines: list[str] = []
    first, second = (build(lines.append, sources=sources, environ=environ) for _ in range(2))
    assert first == second
    assert Path(environ["ORDERFLOW_CACHE"]) in first.parents
    assert sorted(path.name for path in first.iterdir()) == ["batched", "idiomatic"]
    assert (builds(environ), len(lines)) == (1, 1)


@pytest.mark.parametrize("change", ["contents", "name", "Go"])
def test_they_are_built_again_when_anything_has_changed(sources: Path, environ: dict[str, str], change: str) -> None:
    before = build(print, sources=sources, environ=environ)
    file = sources / "idiomatic/main.go"
    if change == "contents":
        file.write_text("package main // changed")
    elif change == "name":
        file.rename(sources / "idiomatic/other.go")
    else:
        environ["GO_VERSION"] = "go1.26"
    assert build(print, sources=sources, environ=environ) != before
    assert builds(environ) == 2


def test_without_go_the_message_says_how_to_get_it(sources: Path, environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(GoUnavailable, match=r"Go is not installed: install Go 1\.25 or newer \(https://go\.dev/dl\)"):
        build(print, sources=sources, environ={**environ, "PATH": str(tmp_path / "nothing")})


def test_a_failed_build_is_reported_and_tried_again(sources: Path, environ: dict[str, str]) -> None:
    with pytest.raises(GoUnavailable, match=r"`go build` failed \(module lookup disabled\)"):
        build(print, sources=sources, environ={**environ, "FAIL": "module lookup disabled"})
    assert build(print, sources=sources, environ=environ).is_dir()
