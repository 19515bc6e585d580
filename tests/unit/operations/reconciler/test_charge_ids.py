# SPDX-License-Identifier: Apache-2.0
"""Orders that share a charge meet after a bounded number of passes, in bounded memory."""

from uuid import UUID

from orderflow.operations.reconciler.charge_ids import ChargeIds


def test_an_order_meets_the_one_with_the_same_charge() -> None:
    ids = ChargeIds()
    assert ids.add("c-1", UUID(int=1)) is None
    assert ids.add("c-2", UUID(int=2)) is None
    assert ids.add("c-1", UUID(int=1)) is None
    assert ids.add("c-1", UUID(int=3)) == UUID(int=1)


def test_a_pass_begins_with_nothing() -> None:
    ids = ChargeIds()
    ids.add("c-1", UUID(int=1))
    ids.next_pass()
    assert ids.add("c-1", UUID(int=3)) is None


def test_with_too_many_charges_each_pass_remembers_another_part_of_them() -> None:
    """Every one of a thousand pairs is met in some pass, though no pass remembers more than a hundred charges."""
    ids, met = ChargeIds(limit=100), set[UUID]()
    for _ in range(64):
        for number in range(2000):
            other = ids.add(f"c-{number % 1000}", UUID(int=number))
            met |= set() if other is None else {other}
            assert len(ids._orders) <= 100
        ids.next_pass()
    assert 16 <= ids.parts <= 32
    assert met == {UUID(int=number) for number in range(1000)}


def test_fewer_charges_need_fewer_parts() -> None:
    ids = ChargeIds(limit=100)
    for number in range(1000):
        ids.add(f"c-{number}", UUID(int=number))
    before = ids.parts
    ids.next_pass()
    for _ in range(10):
        ids.add("c-1", UUID(int=1))
        ids.next_pass()
    assert ids.parts == 1 < before
