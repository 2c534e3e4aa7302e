"""`foldsight`: the command of the device."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edge import __version__, bundle_cli, recording_cli
from edge import config as settings
from edge.bundle import Bundle
from edge.config import COMMITTED_BUNDLE
from edge.errors import ConfigError, FoldsightError
from edge.service import log_to_stderr
from edge.software import cli as software_cli

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge.bundle import Manifest
    from edge.daemon import Daemon
    from edge.pairing.adapter import Adapter

_FRAME_BUDGET_MS = 33  # of the demo and the benchmark: their frames are rendered, no camera takes its share of the time
NOTICE = "Research software, not a medical device: it makes no diagnosis."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 it failed and said why, 2 wrong usage or configuration.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except FoldsightError as error:
        if arguments.debug:
            raise
        for line in str(error).splitlines():
            print(f"foldsight: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader of our output has gone; that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.debug:
            raise
        print(
            f"foldsight: unexpected {type(error).__name__}: {error}; run again with --debug for the details",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foldsight", description="Says live whether the vocal folds are in view.", epilog=NOTICE
    )
    parser.add_argument("--version", action="version", version=f"foldsight {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, **more: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, **more)
        added.set_defaults(run=run)
        return added

    run = command("run", _run, "the daemon: watch the scope and publish what it sees")
    _add_config(run)
    run.add_argument("--seconds", type=_positive, help="end after so long (default: when stopped)")
    run.add_argument("--json", action="store_true", help="print the summary as JSON when it ends")

    demo = command("demo", _demo, "broker, daemon and phone page on this machine")
    _add_config(demo)
    demo.add_argument("--seconds", type=_positive, help="end after so long (default: at Ctrl-C)")
    demo.add_argument("--no-page", action="store_true", help="without the phone page")
    demo.add_argument("--phones", action="store_true", help="let phones in the same network pair: TLS, and a code")
    demo.add_argument("--json", action="store_true", help="print only the summary, as JSON")

    degraded = command("degraded", _standin, "tell phones that the daemon does not run (foldsight-degraded does)")
    _add_config(degraded)
    degraded.add_argument("--reason", default="the daemon does not run", help="what people read")

    _add_phones(command)

    watch = command("watch", _watch, "what an adapter publishes, live in the terminal")
    _add_config(watch)
    watch.add_argument("--host", help="the broker (default: the configured one)")
    watch.add_argument("--port", type=int, help="its port")
    watch.add_argument("--device", help="one adapter's name (default: all; with phones this one)")
    watch.add_argument("--seconds", type=_positive, help="end after so long")
    watch.add_argument("--json", action="store_true", help="every message as one JSON object a line")

    _add_bench(command("bench", _bench, "what this machine really does, frame by frame"))

    _add_classify(command("classify", _classify, "images through exactly the live path"))

    bundle = command("bundle", lambda _: 0, "model bundles: look at one, check, sign, install, go back")
    actions = bundle.add_subparsers(required=True, metavar="ACTION")
    for name, action, text in (
        ("inspect", _bundle_inspect, "what it says of itself"),
        ("verify", _bundle_verify, "check hashes and golden outputs on this machine"),
    ):
        added = actions.add_parser(name, help=text, description=text)
        added.add_argument("path", nargs="?", type=Path, default=COMMITTED_BUNDLE, help="default: the one that ships")
        added.add_argument("--json", action="store_true")
        added.set_defaults(run=action)
    bundle_cli.add_actions(actions, _add_config, lambda a: settings.load(a.config, _overrides(a)))

    software = command("software", lambda _: 0, "this adapter's software: update it, go back, see what is installed")
    software_cli.add_actions(software.add_subparsers(required=True, metavar="ACTION"))

    _add_recording(command("recording", lambda _: 0, "clips and snapshots on this adapter: list, export, delete, open"))

    config = command("config", lambda _: 0, "check and show the settings")
    actions = config.add_subparsers(required=True, metavar="ACTION")
    for name, what, text in (
        ("check", _config_check, "say every fault, with file and line"),
        ("show", _config_show, "all settings as they take effect"),
        ("changes", _config_changes, "only those that differ from the defaults"),
        ("schema", _config_schema, "JSON Schema of the settings file"),
    ):
        added = actions.add_parser(name, help=text, description=text)
        _add_config(added)
        added.add_argument("--json", action="store_true")
        added.set_defaults(run=what)

    _add_doctor(command("doctor", _doctor, "look at camera, model, broker, clock, power, disk, units; say what to do"))

    schema = command("schema", _schema, "JSON Schemas of the messages")
    schema.add_argument(
        "--of",
        choices=("messages", "asyncapi", "openapi"),
        default="messages",
        help="the messages' JSON Schemas (default), all topics as AsyncAPI, or the web server as OpenAPI",
    )
    schema.add_argument("--out", type=Path, help="write NAME.json files into this folder instead of printing")
    return parser


def _add_phones(command: Callable[..., argparse.ArgumentParser]) -> None:
    display = command("display", _display, "the phone page's server: page, pairing, health, metrics")
    _add_config(display)

    pair = command("pair", _pair, "show a code with which one phone may connect, for five minutes")
    _add_config(pair)
    pair.add_argument("--png", type=Path, metavar="FILE", help="write the code as a picture too")
    pair.add_argument("--json", action="store_true", help="print the code's content as JSON instead")
    pair_actions = pair.add_subparsers(metavar="ACTION")
    listed = pair_actions.add_parser("list", help="phones that are paired", description="Phones that are paired.")
    revoke = pair_actions.add_parser(
        "revoke", help="throw a phone out for good", description="Throw a phone out at once and for good."
    )
    revoke.add_argument("name", metavar="NAME|all", help="the phone's name or its account's, or all")
    for added, run in ((listed, _pair_list), (revoke, _pair_revoke)):
        _add_config(added)
        added.add_argument("--json", action="store_true")
        added.set_defaults(run=run)

    broker = command("broker", lambda _: 0, "what the broker of an adapter with phones needs")
    broker_actions = broker.add_subparsers(required=True, metavar="ACTION")
    for name, run, text in (
        ("prepare", _broker_prepare, "make certificates and accounts where they are missing or due"),
        ("config", _broker_config, "print mosquitto's configuration"),
    ):
        added = broker_actions.add_parser(name, help=text, description=text)
        _add_config(added)
        added.set_defaults(run=run)
        if name == "prepare":
            added.add_argument("--restart", action="store_true", help="have the services load what was made (systemd)")
            added.add_argument("--json", action="store_true")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    _add_config(bench)
    bench.add_argument("--seconds", type=_positive, default=10.0, help="how long to measure (default 10)")
    bench.add_argument("--warmup", type=_positive, default=2.0, help="how long to run before (default 2)")
    bench.add_argument("--lossless", action="store_true", help="as fast as it goes, instead of at the source's rate")
    bench.add_argument("--one-core", action="store_true", help="keep the whole process on one core")
    bench.add_argument("--compare", type=Path, metavar="FILE", help="say what changed since this earlier --json")
    bench.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the ages, and how they held")
    bench.add_argument("--json", action="store_true", help="one JSON object")


def _add_classify(classify: argparse.ArgumentParser) -> None:
    classify.add_argument("paths", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    classify.add_argument(
        "--bundle", type=Path, default=COMMITTED_BUNDLE, help="model bundle (default: the one that ships)"
    )
    classify.add_argument("--precision", choices=("auto", "int8", "fp32"), default="auto")
    classify.add_argument("--overlay", type=Path, metavar="DIR", help="write pictures with the answers drawn in")
    classify.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_recording(recording: argparse.ArgumentParser) -> None:
    actions = recording.add_subparsers(required=True, metavar="ACTION")
    recording_cli.add_actions(actions, _add_config, lambda a: settings.load(a.config, _overrides(a)))


def _add_doctor(doctor: argparse.ArgumentParser) -> None:
    _add_config(doctor)
    doctor.add_argument("--json", action="store_true", help="one JSON object")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help=f"settings file (default: {settings.DEFAULT_PATH} where it exists)")
    parser.add_argument("--source", help="short for --set capture.source=…")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, for example capture.fps=60"
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {}
    pairs = list(arguments.set)
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair!r} is not KEY=VALUE, for example capture.fps=60")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: {text!r} is not a YAML value") from error
        section = result
        *path, last = key.split(".")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    if arguments.source is not None:
        result.setdefault("capture", {})["source"] = arguments.source
    return result


def _stop_on_signals(daemon: Daemon) -> None:
    def stop(number: int, _: Any) -> None:
        del number
        daemon.stop()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)


def _run(arguments: argparse.Namespace) -> int:
    from edge import daemon as service  # noqa: PLC0415  OpenCV and the runtime take half a second

    config = settings.load(arguments.config, _overrides(arguments))
    service.log_to_stderr(config.log)
    daemon = service.Daemon(config)
    _stop_on_signals(daemon)
    if not sys.stderr.isatty():  # where a closed terminal sends it, it ends the command
        signal.signal(signal.SIGHUP, lambda *_: daemon.reload())
    summary = daemon.run(arguments.seconds)
    if arguments.json:
        print(json.dumps(summary.as_dict()))
    return 0


def _standin(arguments: argparse.Namespace) -> int:
    from edge import standin  # noqa: PLC0415  only what a command needs

    standin.announce(settings.load(arguments.config, _overrides(arguments)), arguments.reason)
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from edge import daemon as service  # noqa: PLC0415  as above
    from edge import demo  # noqa: PLC0415

    overrides = _overrides(arguments)
    if arguments.config is None:
        # Without a settings file of its own the demo's camera is the phantom.
        capture = overrides.setdefault("capture", {})
        capture.setdefault("source", "phantom")
        if capture["source"] == "phantom":
            capture.setdefault("width", 640)
            capture.setdefault("height", 480)
        overrides.setdefault("device", "demo")
        overrides.setdefault("latency", {}).setdefault("budget_ms", _FRAME_BUDGET_MS)
    service.log_to_stderr("warning")
    demo.run(
        arguments.config,
        overrides,
        seconds=arguments.seconds,
        page=not arguments.no_page,
        phones=arguments.phones,
        as_json=arguments.json,
        on_daemon=_stop_on_signals,
    )
    return 0


def _display(arguments: argparse.Namespace) -> int:
    from edge.display import service  # noqa: PLC0415  only what a command needs

    config = settings.load(arguments.config, _overrides(arguments))
    log_to_stderr(config.log)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    service.run(config, stop)
    return 0


def _adapter(arguments: argparse.Namespace) -> Adapter:
    from edge.pairing.adapter import Adapter  # noqa: PLC0415  only what a command needs

    config = settings.load(arguments.config, _overrides(arguments))
    if not config.phones.enabled:
        raise ConfigError("phones.enabled is false: set it to true in the settings, then `foldsight broker prepare`")
    return Adapter(config)


def _pair(arguments: argparse.Namespace) -> int:
    from edge.pairing import code, registry  # noqa: PLC0415  only what a command needs

    adapter = _adapter(arguments)
    address = adapter.pairing_address(adapter.registry.new_token())
    if arguments.png is not None:
        code.save_png(address, arguments.png)
    if arguments.json:
        print(json.dumps({"url": address, "seconds": registry.TOKEN_S}))
        return 0
    print(code.terminal(address))
    print(f"{address}\n\nGood for one phone and {registry.TOKEN_S // 60} minutes. The first time, see docs/phone.md.")
    if arguments.png is not None:
        print(f"The code is in {arguments.png} too.")
    return 0


def _pair_list(arguments: argparse.Namespace) -> int:
    phones = _adapter(arguments).registry.phones()
    if arguments.json:
        print(json.dumps([phone.model_dump() for phone in phones]))
        return 0
    for phone in phones:
        print(f"{phone.name:<42}{phone.username:<24}{phone.paired_at}")
    if not phones:
        print("no phone is paired")
    return 0


def _pair_revoke(arguments: argparse.Namespace) -> int:
    adapter = _adapter(arguments)
    revoked = adapter.registry.revoke(arguments.name, adapter.accounts().delete)
    if arguments.json:
        print(json.dumps([phone.model_dump() for phone in revoked]))
        return 0
    for phone in revoked:
        print(f"{phone.name} is revoked")
    if not revoked:
        print("no phone was paired")
    return 0


def _broker_prepare(arguments: argparse.Namespace) -> int:
    adapter = _adapter(arguments)
    log_to_stderr(adapter.config.log)
    made = adapter.prepare()
    if arguments.restart and any(made):
        _restart_services()
    if arguments.json:
        print(json.dumps(made._asdict()))
        return 0
    what = [name for name, new in made._asdict().items() if new]
    print(f"{' and '.join(what)} were made" if what else "all is as it should be")
    if what and not arguments.restart:
        print("restart the broker, so that it knows them")
    return 0


def _restart_services() -> None:
    """Have the services load what was made."""
    # Not waited for: while the machine starts, these very services wait for this command.
    command = ["systemctl", "--no-block", "try-restart", "mosquitto.service", "foldsight-display.service"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FoldsightError(f"The services could not be restarted ({error}): restart them yourself") from error


def _broker_config(arguments: argparse.Namespace) -> int:
    print(_adapter(arguments).broker_configuration(), end="")
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    from edge.watch import Watcher  # noqa: PLC0415  only what a command needs

    config = settings.load(arguments.config, _overrides(arguments))
    mqtt = config.mqtt
    # The accounts of an adapter with phones read that adapter alone.
    device = arguments.device or (config.device if config.phones.enabled else "+")
    Watcher(device, as_json=arguments.json).run(
        arguments.host or mqtt.host,
        arguments.port or mqtt.port,
        seconds=arguments.seconds,
        username=mqtt.username,
        password_file=mqtt.password_file,
        ca_file=mqtt.ca_file,
    )
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from edge import bench, daemon  # noqa: PLC0415  as above

    overrides = _overrides(arguments)
    capture = overrides.setdefault("capture", {})
    if arguments.config is None:
        capture.setdefault("source", "phantom")
        overrides.setdefault("latency", {}).setdefault("budget_ms", _FRAME_BUDGET_MS)
    if arguments.lossless:
        capture["pace"] = "lossless"
    config = settings.load(arguments.config, overrides)
    daemon.log_to_stderr("warning")
    earlier = None if arguments.compare is None else bench.load(arguments.compare)
    if arguments.plot is not None and not arguments.plot.parent.is_dir():  # told before the measuring, not after it
        raise FoldsightError(f"{arguments.plot} cannot be written: there is no folder {arguments.plot.parent}")
    result = bench.run(config, seconds=arguments.seconds, warmup_s=arguments.warmup, core=arguments.one_core)
    if earlier is not None:
        result["comparison"] = bench.compare(earlier, result)
    if arguments.plot is not None:
        try:
            arguments.plot.write_text(bench.draw(result), encoding="utf-8")
        except OSError as error:
            raise FoldsightError(f"{arguments.plot} cannot be written ({error.strerror}): give another path") from error
    if arguments.json:
        print(json.dumps(result))
        return 0
    print(bench.report(result))
    if earlier is not None:
        print("", bench.comparison_table(result["comparison"]), sep="\n")
    return 0


def _classify(arguments: argparse.Namespace) -> int:
    from edge import classify  # noqa: PLC0415  as above
    from edge.analysis import Analyser  # noqa: PLC0415

    analyser = Analyser(Bundle.open(arguments.bundle), precision=arguments.precision)
    return classify.run(analyser, arguments.paths, as_json=arguments.json, overlay=arguments.overlay)


def _bundle_inspect(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.path, golden=False)
    manifest = bundle.manifest
    if arguments.json:
        print(manifest.model_dump_json())
        return 0
    rows = [
        ("bundle", arguments.path),
        ("model", f"{manifest.name} {manifest.version}, made {manifest.created}"),
        ("identity", bundle.sha256),
        ("labels", ", ".join(manifest.labels) + f" (finding: {manifest.finding})"),
        ("input", f"{manifest.input.height} x {manifest.input.width} RGB uint8, {manifest.input.fit}"),
        *_maps_row(manifest),
        ("decision", ", ".join(f"{k} {v:g}" for k, v in manifest.decision.model_dump(exclude_none=True).items())),
        *(("artefact", f"{a.name}: {a.format} {a.precision}, {len(bundle.files[a.file]) / 1e6:.2f} MB")
          for a in manifest.artefacts),
        ("licence", manifest.licence + (" (research only)" if manifest.research_only else "")),
        ("size", f"{arguments.path.stat().st_size / 1e6:.2f} MB"),
    ]  # fmt: skip
    for name, value in rows:
        print(f"{name:<10}{value}")
    for metric in manifest.metrics:
        interval = "" if metric.low is None or metric.high is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
        print(f"{metric.split:<10}{metric.source:<16}{metric.name:<20}{metric.value:.3f}{interval}  n={metric.images}")
    return 0


def _maps_row(manifest: Manifest) -> list[tuple[str, str]]:
    maps = manifest.outputs.maps
    if maps is None:
        return []
    thresholds = ", ".join(f"{label} from {maps.thresholds[label]:g}" for label in maps.labels)
    floor = "none" if maps.support_floor is None else f"{maps.support_floor:g}"
    smoothing = f"smoothing_s {maps.smoothing_s:g}"
    return [
        ("maps", f"{thresholds}; stride {maps.stride}, {smoothing}, temperature {maps.temperature:g}, support {floor}")
    ]


def _bundle_verify(arguments: argparse.Namespace) -> int:
    from edge.runtime.ncnn import ncnn_version  # noqa: PLC0415  only what a command needs

    bundle = Bundle.open(arguments.path, golden=False)
    untried = [a.name for a in bundle.manifest.artefacts if a.runtime == "ncnn" and ncnn_version() is None]
    differences = {a.name: bundle.check_golden(a) for a in bundle.manifest.artefacts if a.name not in untried}
    if arguments.json:
        print(json.dumps({"ok": True, "sha256": bundle.sha256, "difference": differences}))
    else:
        print(f"{arguments.path}: all hashes right")
        for artefact in bundle.manifest.artefacts:
            if artefact.name in untried:
                print(f"  {artefact.name}: not tried, ncnn is not installed here")
                continue
            print(
                f"  {artefact.name}: golden outputs within {differences[artefact.name]:.5f} "
                f"(allowed {artefact.tolerance})"
            )
    return 0


def _config_check(arguments: argparse.Namespace) -> int:
    config = settings.load(arguments.config, _overrides(arguments))
    if arguments.json:
        print(json.dumps({"ok": True, "sha256": config.sha256}))
    else:
        print("the settings are right")
    return 0


def _config_show(arguments: argparse.Namespace) -> int:
    return _print_settings(settings.load(arguments.config, _overrides(arguments)).model_dump(mode="json"), arguments)


def _config_changes(arguments: argparse.Namespace) -> int:
    return _print_settings(settings.changes(settings.load(arguments.config, _overrides(arguments))), arguments)


def _print_settings(data: dict[str, Any], arguments: argparse.Namespace) -> int:
    print(
        json.dumps(data) if arguments.json else yaml.safe_dump(data, sort_keys=False),
        end="\n" if arguments.json else "",
    )
    return 0


def _config_schema(arguments: argparse.Namespace) -> int:
    del arguments
    print(json.dumps(settings.Config.model_json_schema(), indent=2))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from edge import doctor  # noqa: PLC0415  only what a command needs

    config = settings.load(arguments.config, _overrides(arguments))
    log_to_stderr("critical")  # what goes wrong is said once
    checks = []
    for check in doctor.examine(config):
        checks.append(check)
        if not arguments.json:
            print(doctor.line(check), flush=True)
    failed = any(check.level == "failed" for check in checks)
    if arguments.json:
        print(json.dumps({"ok": not failed, "checks": [check.as_dict() for check in checks]}))
    return 1 if failed else 0


def _schema(arguments: argparse.Namespace) -> int:
    from edge.messages import json_schemas  # noqa: PLC0415  only what a command needs

    if arguments.of == "asyncapi":
        from edge.asyncapi import asyncapi  # noqa: PLC0415  as above

        print(json.dumps(asyncapi(), indent=2))
        return 0
    if arguments.of == "openapi":
        from edge.display.api import openapi  # noqa: PLC0415  as above

        print(json.dumps(openapi(), indent=2))
        return 0
    schemas = json_schemas()
    if arguments.out is None:
        print(json.dumps(schemas, indent=2))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas.items():
        (arguments.out / f"{name}.json").write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
