# SPDX-License-Identifier: Apache-2.0
"""The simulator's charges and refunds: one record per idempotency key, stored in a file of JSON lines."""

import io
import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

log = logging.getLogger(__name__)


class Charge(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="charge"):
    """A captured or declined charge; ``reference`` is the order id. ``amount`` is in minor units."""

    key: str
    charge_id: str
    reference: str
    amount: int
    currency: str
    status: Literal["captured", "declined"]
    refundable: bool = True
    at: datetime


class Refund(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="refund"):
    """A refund of a whole charge. ``amount`` is in minor units."""

    key: str
    refund_id: str
    charge_id: str
    reference: str
    amount: int
    status: Literal["refunded"] = "refunded"
    at: datetime


class AlreadyRefunded(Exception):
    """The charge was refunded with another idempotency key."""


class Ledger:
    """Charges and refunds by idempotency key.

    With a path every record is written before its response is sent: it survives a crash of the process, but not of the
    machine. An incomplete last line is dropped at the next start.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.charges: dict[str, Charge] = {}
        self.refunds: dict[str, Refund] = {}
        self.refunded: set[str] = set()
        """The ids of refunded charges."""
        self._by_id: dict[str, Charge] = {}
        self._encoder = msgspec.json.Encoder()
        self._file: io.FileIO | None = None
        if path is not None:
            self._file = path.open("ab", buffering=0)
            self._load(path)

    def charge(self, charge: Charge) -> Charge:
        """Store a charge and return it; with a known key return the first charge instead."""
        known = self.charges.get(charge.key)
        if known is None:
            self._write(charge)
            self._keep(charge)
        return known or charge

    def refund(self, refund: Refund) -> Refund:
        """Store a refund and return it; with a known key return the first refund instead.

        Raises AlreadyRefunded when the charge was refunded with another key.
        """
        known = self.refunds.get(refund.key)
        if known is None:
            if refund.charge_id in self.refunded:
                raise AlreadyRefunded(refund.charge_id)
            self._write(refund)
            self._keep(refund)
        return known or refund

    def captured(self, charge_id: str) -> Charge | None:
        """The charge with this id, if it was captured."""
        charge = self._by_id.get(charge_id)
        return charge if charge is not None and charge.status == "captured" else None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _keep(self, record: Charge | Refund) -> None:
        if isinstance(record, Charge):
            self.charges[record.key] = record
            self._by_id[record.charge_id] = record
        else:
            self.refunds[record.key] = record
            self.refunded.add(record.charge_id)

    def _write(self, record: Charge | Refund) -> None:
        if self._file is not None:
            self._file.write(self._encoder.encode(record) + b"\n")

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            log.warning("ledger.cut_off", extra={"bytes": len(data) - whole})
            os.truncate(path, whole)
        decode = msgspec.json.Decoder(Charge | Refund).decode
        for line in data[:whole].splitlines():
            self._keep(decode(line))
