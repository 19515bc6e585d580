# SPDX-License-Identifier: Apache-2.0
import inspect
import re

from orderflow.messaging import errors


def test_the_drawing_shows_the_tree_as_it_is() -> None:
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([ │├└─]*)([A-Z]\w+Error|[A-Z]\w+)(?:\s{2,}|$)", line)
        if not found:
            continue
        depth, name = len(found[1]), found[2]
        above = [(column, parent) for column, parent in above if column < depth]
        if above:
            drawn[name] = above[-1][1]
        above.append((depth, name))
    real = {
        name: cls.__bases__[0].__name__
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if cls.__module__ == errors.__name__ and cls is not errors.MessagingError
    }
    assert drawn == real
