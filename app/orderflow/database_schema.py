# SPDX-License-Identifier: Apache-2.0
"""The schema of a service's database: the messaging core's migrations and the service's own."""

from importlib.resources import files

from orderflow.messaging.postgres.migrations import Component, messaging_schema


def database_schema(service: str) -> tuple[Component, Component]:
    """The components of the database of a service, in the order in which they are applied."""
    folder = files(f"orderflow.services.{service}").joinpath("schema")
    return messaging_schema(), Component.read(service, folder)
