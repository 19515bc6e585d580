# SPDX-License-Identifier: Apache-2.0
"""The ledger of the payment simulator."""

from pathlib import Path

import pytest

from orderflow.payment_simulator.ledger import AlreadyRefunded, Charge, Ledger, Refund
from tests.builders import NOW


def charge(key: str = "k1", charge_id: str = "ch_1", **changes: object) -> Charge:
    values = {"reference": "order-1", "amount": 1999, "currency": "EUR", "status": "captured", "at": NOW, **changes}
    return Charge(key=key, charge_id=charge_id, **values)  # type: ignore[arg-type]


def refund(key: str = "r1") -> Refund:
    return Refund(key=key, refund_id=f"re_{key}", charge_id="ch_1", reference="order-1", amount=1999, at=NOW)


def test_a_key_charges_once() -> None:
    ledger = Ledger()
    first = ledger.charge(charge())
    assert ledger.charge(charge(charge_id="ch_2")) is first
    assert list(ledger.charges.values()) == [first]


def test_a_charge_is_refunded_once_and_only_with_one_key() -> None:
    ledger = Ledger()
    ledger.charge(charge())
    assert ledger.refund(refund()) == ledger.refund(refund())
    with pytest.raises(AlreadyRefunded):
        ledger.refund(refund("r2"))
    assert list(ledger.refunds) == ["r1"]


def test_only_a_captured_charge_can_be_found_for_a_refund() -> None:
    ledger = Ledger()
    ledger.charge(charge())
    ledger.charge(charge("k2", "ch_2", status="declined"))
    assert ledger.captured("ch_1") is not None
    assert ledger.captured("ch_2") is None
    assert ledger.captured("ch_3") is None


def test_a_file_keeps_what_was_executed_even_when_its_last_line_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.charge(charge())
    ledger.charge(charge("k2", "ch_2", status="declined"))
    ledger.refund(refund())
    with path.open("ab") as file:
        file.write(b'{"kind":"charge","key":"k3",')
    again = Ledger(path)
    again.charge(charge("k4", "ch_4"))
    last = Ledger(path)
    assert last.charges.keys() == {"k1", "k2", "k4"}
    assert last.charges["k1"] == charge()
    assert (last.refunds, last.refunded) == ({"r1": refund()}, {"ch_1"})
    for opened in (ledger, again, last):
        opened.close()
