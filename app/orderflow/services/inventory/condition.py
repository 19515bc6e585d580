# SPDX-License-Identifier: Apache-2.0
"""What must hold of a SKU when its stock is set, so that nobody overwrites a change that they have not seen."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The default always holds."""

    versions: frozenset[int] | None = None
    """The SKU exists in one of these versions; None: in any, or not at all."""
    exists: bool = False
    absent: bool = False

    @property
    def needs_the_sku(self) -> bool:
        """True when the condition cannot hold for a SKU that does not exist."""
        return self.exists or self.versions is not None

    def holds(self, version: int | None) -> bool:
        """Whether the condition holds for a SKU in this version; None when there is no such SKU."""
        if version is None:
            return not self.needs_the_sku
        return not self.absent and (self.versions is None or version in self.versions)


ALWAYS = Condition()
