"""Command-line options that several commands have: what of the machine they may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_machine(
    parser: argparse.ArgumentParser, *, workers: bool = False, accelerator: bool = False, devices: bool = False
) -> None:
    """Add `--threads`, and more where a command has a use for it.

    Args:
        parser: of the command.
        workers: processes that prepare images.
        accelerator: what trains, or infers.
        devices: how many of them.
    """
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (default: all)")
    if workers:
        parser.add_argument("--workers", type=int, default=0, help="processes that prepare images (default: none)")
    if accelerator:
        parser.add_argument("--accelerator", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    if devices:
        parser.add_argument("--devices", type=int, default=1, help="how many devices (default: 1)")
