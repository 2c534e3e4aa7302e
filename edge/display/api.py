"""The web server's description (OpenAPI 3.1), as docs/openapi.json has it."""

from __future__ import annotations

from typing import Any

from edge.display.app import make_app
from edge.display.server import DisplaySettings


def openapi() -> dict[str, Any]:
    """What `/api` and `/healthz` take and give. The server itself does not hand it out."""
    description: dict[str, Any] = make_app(DisplaySettings(device="adapter"), {}).openapi()
    return description
