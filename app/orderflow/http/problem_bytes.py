# SPDX-License-Identifier: Apache-2.0
"""A problem document as the bytes of a response, for what is refused before the application."""

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from orderflow.http.problems import MEDIA_TYPE, ProblemType


def head_and_body(problem: ProblemType) -> tuple[bytes, bytes]:
    """The status line and the headers of the content, to which others may be added, and the body."""
    body = msgspec.json.encode(problem.document())
    content = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
    return STATUS_LINE[problem.status] + content.encode(), body
