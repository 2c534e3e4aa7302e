"""The description of the topics: as shipped, whole, and true of what the daemon sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from edge.asyncapi import asyncapi
from edge.messages import TOPICS, Reply, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(__file__).parents[2] / "docs" / "asyncapi.json"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def test_it_is_shipped() -> None:
    assert json.loads(SHIPPED.read_text()) == asyncapi(), "run `foldsight schema --of asyncapi > docs/asyncapi.json`"


def test_every_reference_leads_somewhere_and_every_channel_is_used() -> None:
    document = asyncapi()
    used = set(references(document))
    for reference in used:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    assert {f"#/channels/{name}" for name in document["channels"]} <= used
    assert {f"#/components/messages/{name}" for name in document["components"]["messages"]} <= used
    for channel in document["channels"].values():
        named = {part[1:-1] for part in channel["address"].split("/") if part.startswith("{")}
        assert named == set(channel["parameters"])


@pytest.mark.parametrize("topic", [*TOPICS, "reply"])
def test_payloads_are_schemas_that_take_what_is_sent(topic: str) -> None:
    schema = asyncapi()["components"]["messages"][topic]["payload"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert not list(references(schema))
    kind = {**TOPICS, "reply": Reply}[topic]
    assert set(schema["properties"]) == {field.serialization_alias or name for name, field in kind.model_fields.items()}


def test_a_message_is_valid_and_a_wrong_one_is_not() -> None:
    schema = asyncapi()["components"]["messages"]["status"]["payload"]
    message = json.loads(Status(device="a", session=1, state="online", at=1.0).encode())
    jsonschema.validate(message, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**message, "state": "asleep"}, schema)
