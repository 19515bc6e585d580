# SPDX-License-Identifier: Apache-2.0
"""Describes structs in an OpenAPI document exactly as their decoder reads them.

Litestar's own schemas omit that unknown fields are refused, and describe tuples of any length wrongly.
"""

from typing import TYPE_CHECKING, Any

import msgspec
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition

if TYPE_CHECKING:
    from litestar._openapi.schema_generation import SchemaCreator

_DEFINITIONS = "#/$defs/"


class StructSchemas(OpenAPISchemaPlugin):
    """Uses msgspec's JSON Schema, with nested definitions written out where they are used."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        """True for a struct."""
        return not field_definition.is_union and field_definition.is_subclass_of(msgspec.Struct)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: "SchemaCreator") -> Schema:
        """The component of a struct."""
        document = msgspec.json.schema(field_definition.annotation)
        found = _written_out(document, document["$defs"])
        schema = schema_creator.create_component_schema(field_definition, required=[], property_fields={})
        schema.type = OpenAPIType.OBJECT
        schema.title = found["title"]
        schema.description = found.get("description")
        schema.properties = found["properties"]
        schema.required = found.get("required", [])
        schema.additional_properties = found.get("additionalProperties")
        return schema


def _written_out(value: Any, definitions: dict[str, Any]) -> Any:
    """The value with every reference replaced by what it refers to; no struct of an API contains itself."""
    if isinstance(value, list):
        return [_written_out(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$ref"), str):
        return _written_out(definitions[value["$ref"].removeprefix(_DEFINITIONS)], definitions)
    return {key: _written_out(item, definitions) for key, item in value.items() if key != "$defs"}
