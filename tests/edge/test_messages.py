from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from edge.messages import Status, json_schemas

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize("topic", sorted(json_schemas()))
def test_the_published_schemas_are_those_of_the_code(topic: str) -> None:
    published = json.loads((SCHEMAS / f"{topic}.json").read_text())
    assert published == json_schemas()[topic], "run `foldsight schema --out docs/schemas`"
    jsonschema.Draft202012Validator.check_schema(published)


def test_a_message_carries_its_schema_and_reads_back() -> None:
    status = Status(device="a", session=3, state="online", at=1.5)
    payload = json.loads(status.encode())
    assert payload["schema"] == 1
    assert Status.model_validate({**payload, "a_key_of_tomorrow": 1}) == status
