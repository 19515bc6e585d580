# SPDX-License-Identifier: Apache-2.0
"""``orderflow api-key``: makes an API key and its entry for the settings."""

import argparse
import sys
from collections.abc import Mapping

from orderflow.http.api_keys import SCOPES, make_key

EXIT_ARGUMENTS = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument(
        "name", help="name of the client that gets the key; its orders and idempotency keys belong to this name"
    )
    parser.add_argument("scopes", nargs="+", choices=sorted(SCOPES), help="what the key allows")


def main(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Print a new key and its entry; the exit code."""
    try:
        key, entry = make_key(options.name, frozenset(options.scopes))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_ARGUMENTS
    sys.stdout.write(f"key, shown only now:        {key}\nadd to ORDERFLOW_API_KEYS:  {entry}\n")
    return 0
