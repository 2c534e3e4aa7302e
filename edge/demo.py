"""`foldsight demo`: a broker on loopback, the daemon, and the phone page; everything is gone when it ends."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import config as settings
from edge import rehearsal
from edge.broker import Broker
from edge.capture import public_name
from edge.daemon import Daemon
from edge.display import service as display
from edge.pairing import code
from edge.pairing.adapter import Adapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.daemon import Summary


def run(
    config_file: Path | None,
    overrides: dict[str, Any],
    *,
    seconds: float | None,
    page: bool,
    phones: bool,
    as_json: bool,
    on_daemon: Callable[[Daemon], None],
) -> Summary:
    """Run the demo until it is stopped, or for some seconds.

    Args:
        config_file: settings to start from, or None.
        overrides: settings from the command line.
        seconds: how long, None for until stopped.
        page: whether to serve the phone page.
        phones: whether phones in the same network can pair: TLS, accounts, a code on the terminal.
        as_json: print nothing but the summary.
        on_daemon: called with the daemon before it runs, so that signals can stop it.

    Raises:
        FoldsightError: mosquitto, the page, the bundle or the source is missing.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="foldsight-demo-"))
        base = settings.load(config_file, overrides)
        if phones:
            config, broker = stack.enter_context(
                rehearsal.rehearse(base, Path(folder) / "phones", host="", address=_address())
            )
        else:
            broker = stack.enter_context(Broker())
            config = base
        data = config.model_dump()
        if not phones:
            data["mqtt"] |= {"host": broker.host, "port": broker.port, "username": None, "ca_file": None}
            data["display"] |= {"port": 0, "websocket_port": broker.websocket_port}
            data["phones"] |= {"enabled": False}
        if config.capture.source == "phantom":
            data["preview"] |= {"enabled": True}  # a rendered larynx is nobody's picture
        data["state_dir"] = Path(folder)
        config = settings.Config.model_validate(data)
        address = None
        if page:
            address = display.serve(config, stack).url
        daemon = Daemon(config)
        on_daemon(daemon)
        if not as_json:
            print("Foldsight demo: research software, not a medical device.")
            if address:
                print(f"  phone page   {address}")
            if not phones:
                print(f"  broker       mosquitto_sub -V mqttv5 -p {broker.port} -t 'foldsight/v1/#' -v")
            print(f"  source       {public_name(config.capture.source)} at {config.capture.fps:g} frames/s")
            print(f"  model        {daemon.bundle.manifest.name} {daemon.bundle.manifest.version}")
            if phones and page:
                adapter = Adapter(config)
                code_text = adapter.pairing_address(adapter.registry.new_token())
                print(f"\n{code.terminal(code_text)}\n  {code_text}")
                print("  Good for one phone and five minutes; the phone must trust the adapter first: docs/phone.md.\n")
            print("  Ctrl-C ends it and leaves nothing running.", flush=True)
        summary = daemon.run(seconds)
    print(json.dumps(summary.as_dict()) if as_json else report(summary), flush=True)
    return summary


def _address() -> str:
    """This machine's address in its network, else loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: nothing is sent, but a route is chosen
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def report(summary: Summary) -> str:
    """The summary for a person."""
    age = summary.age_ms
    states = ", ".join(f"{name} {count}" for name, count in sorted(summary.detections.items(), key=lambda i: -i[1]))
    return (
        f"\n{summary.classified} of {summary.frames} frames classified in {summary.seconds:.1f} s "
        f"({summary.fps:.1f} frames/s); states: {states or 'none'}\n"
        f"age p50 {age['p50']:.1f}, p95 {age['p95']:.1f}, p99 {age['p99']:.1f}, max {age['max']:.1f} ms; "
        f"{summary.over_budget} over the budget of {summary.budget_ms:g} ms; "
        f"dropped: {', '.join(f'{k} {v}' for k, v in summary.dropped.items())}"
    )
