"""The topics as an AsyncAPI 3.0 document, made from the messages' types; docs/asyncapi.json is what it gives.

https://www.asyncapi.com/docs/reference/specification/v3.0.0, with the MQTT bindings 0.2.0.
"""

from __future__ import annotations

from typing import Any, Final

from edge import __version__
from edge.messages import CONTENT_TYPE, ROOT, SCHEMA, TOPICS, Message, Reply

# What is on the wire beside the payload; edge/daemon.py and edge/mqtt.py set it.
_BINDINGS: Final[dict[str, dict[str, Any]]] = {
    "status": {"qos": 1, "retain": True},
    "birth": {"qos": 1, "retain": True},
    "detection": {"qos": 0, "retain": False, "messageExpiryInterval": 1},
    "state": {"qos": 1, "retain": True, "messageExpiryInterval": 3},
    "event": {"qos": 1, "retain": False},
    "health": {"qos": 0, "retain": False},
    "preview": {"qos": 0, "retain": False, "messageExpiryInterval": 1},
    "preview-part": {"qos": 0, "retain": False, "messageExpiryInterval": 1},
}
_COMMANDS: Final = {
    "ping": "Asks for an answer, to measure the way there and back.",
    "reload": "Take up a bundle that was installed meanwhile.",
    "snapshot": "Keep the camera's picture of this moment on the adapter, where recording is on.",
    "preview-seen": 'A phone says that it shows a preview: {"seq": number}. QoS 0, without an answer.',
}


def asyncapi() -> dict[str, Any]:
    """The document: the adapter sends on its channels, and receives on `cmd/<name>`."""
    kinds: dict[str, type[Message]] = {**TOPICS, "reply": Reply}
    messages: dict[str, Any] = {
        topic: {"contentType": CONTENT_TYPE, "summary": _first_line(kind), "payload": _payload(kind)}
        for topic, kind in kinds.items()
    }
    messages["preview"] = {
        "contentType": "image/jpeg",
        "summary": "A small picture of the frame with the same number. Off unless configured.",
        "description": "MQTT 5 user properties: seq and session, as strings.",
        "payload": {"type": "string", "format": "binary"},
    }
    messages["preview-part"] = {
        "contentType": "image/jpeg",
        "summary": "The same picture in pieces of less than 4 kB, which the broker passes on to a browser at once.",
        "description": "MQTT 5 user properties: seq, session, part (from 0) and parts (how many), as strings.",
        "payload": {"type": "string", "format": "binary"},
    }
    messages["command"] = {
        "contentType": CONTENT_TYPE,
        "summary": "A request, with MQTT 5 response topic and correlation data where an answer is wanted.",
        "payload": {"type": "object"},
    }
    channels = {topic: _channel(topic, topic) for topic in _BINDINGS}
    channels["command"] = {
        **_channel("cmd/{command}", "command"),
        "parameters": {"device": _DEVICE, "command": {"enum": list(_COMMANDS), "description": _commands()}},
    }
    channels["reply"] = {
        **_channel("reply/{name}", "reply"),
        "parameters": {"device": _DEVICE, "name": {"description": "Chosen by whoever asks, as the response topic."}},
    }
    operations: dict[str, Any] = {
        f"send_{topic}": {
            "action": "send",
            "channel": {"$ref": f"#/channels/{topic}"},
            "bindings": {"mqtt": {**binding, "bindingVersion": "0.2.0"}},
        }
        for topic, binding in _BINDINGS.items()
    }
    operations["receive_command"] = {
        "action": "receive",
        "channel": {"$ref": "#/channels/command"},
        "reply": {
            "channel": {"$ref": "#/channels/reply"},
            "messages": [{"$ref": "#/channels/reply/messages/reply"}],
        },
        "bindings": {"mqtt": {"qos": 1, "bindingVersion": "0.2.0"}},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Foldsight",
            "version": __version__,
            "description": f"What an adapter publishes, MQTT 5, messages of schema {SCHEMA}. Ignore keys that you do "
            "not know. Research software, not a medical device.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "phones": _server("8883", "secure-mqtt", "MQTT over TLS; the account comes from pairing."),
            "page": _server("8884", "wss", "MQTT over secure WebSocket; the account comes from pairing."),
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "securitySchemes": {"account": {"type": "userPassword"}}},
    }


_DEVICE: Final = {"description": "The adapter's name: lower case letters, digits and hyphens."}


def _channel(topic: str, message: str) -> dict[str, Any]:
    return {
        "address": f"{ROOT}/{{device}}/{topic}",
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "parameters": {"device": _DEVICE},
    }


def _server(port: str, protocol: str, description: str) -> dict[str, Any]:
    return {
        "host": "{name}.local:" + port,
        "protocol": protocol,
        "protocolVersion": "5.0",
        "description": description,
        "variables": {"name": {"description": "The adapter's host name."}},
        "security": [{"$ref": "#/components/securitySchemes/account"}],
    }


def _payload(kind: type[Any]) -> dict[str, Any]:
    """The message's JSON Schema with its definitions in their places, so that it stands by itself anywhere."""
    schema: dict[str, Any] = kind.model_json_schema(mode="serialization", by_alias=True)
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            return inline({**definitions[name], **{k: v for k, v in node.items() if k != "$ref"}})
        return {key: inline(value) for key, value in node.items()}

    inlined: dict[str, Any] = inline(schema)
    return inlined


def _first_line(kind: type[Any]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _commands() -> str:
    return " ".join(f"{name}: {text}" for name, text in _COMMANDS.items())
