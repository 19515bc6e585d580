# SPDX-License-Identifier: Apache-2.0
"""The version of orderflow; ``pyproject.toml`` takes it from here."""

VERSION = "0.1.0"
