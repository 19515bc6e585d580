# SPDX-License-Identifier: Apache-2.0
"""HTTP requests to servers on this machine."""

from collections.abc import Mapping
from typing import Any

import requests


def http_json(
    method: str, url: str, *, key: str = "", body: Mapping[str, Any] | None = None, timeout_seconds: float = 10
) -> tuple[int, Any]:
    """One JSON request. Returns the status and the decoded body, also for an error status; other bodies are text."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    response = http(method, url, headers=headers, body=body, timeout_seconds=timeout_seconds)
    if not response.content:
        return response.status_code, None
    try:
        return response.status_code, response.json()
    except requests.JSONDecodeError:
        return response.status_code, response.text


def http(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    timeout_seconds: float = 10,
) -> requests.Response:
    """One request without a proxy and without redirects; raises OSError when there is no response in time."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            method, url, headers=dict(headers or {}), json=body, timeout=timeout_seconds, allow_redirects=False
        )
