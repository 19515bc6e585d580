# SPDX-License-Identifier: Apache-2.0
"""What the broker says when it closes a channel because of one publication.

It does not name the publication. Of a message that is too large it names the size:
``PRECONDITION_FAILED - message size 3145728 is larger than configured max size 2097152``.
"""

import re
from dataclasses import dataclass

from pika.exceptions import ChannelClosedByBroker

from orderflow.messaging.broker import Failure

_CODES = frozenset({311, 403, 404, 406})
"""CONTENT_TOO_LARGE, ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED: the errors of a publish."""
_SIZE = re.compile(r"message size (\d+) is larger")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a publication was refused, and its size when the broker told it."""

    failure: Failure
    size_bytes: int | None = None


def refusal(reason: BaseException) -> Refusal | None:
    """The refusal for which a channel was closed; None when it was closed for another reason."""
    if not isinstance(reason, ChannelClosedByBroker) or reason.reply_code not in _CODES:
        return None
    size = _SIZE.search(str(reason.reply_text))
    return Refusal(Failure.TOO_LARGE, int(size[1])) if size else Refusal(Failure.REFUSED)
