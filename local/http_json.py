# SPDX-License-Identifier: Apache-2.0
"""One JSON request over HTTP."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any


def http_json(
    method: str, url: str, *, key: str = "", body: Mapping[str, Any] | None = None, timeout_seconds: float = 10
) -> tuple[int, Any]:
    """One JSON request; the status and the decoded answer, also for an error status."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        content = error.read()
        with contextlib.suppress(ValueError):
            return error.code, json.loads(content)
        return error.code, content.decode(errors="replace")
