"""``python -m python_backend``: serve, doctor, clean, contract. Exit codes: 0 ok, 1 failed, 2 usage, 3 cannot start."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from python_backend.contract_page import contract_page
from python_backend.errors import SetupError
from python_backend.finding import Finding
from python_backend.launcher.command import server_command, server_environment
from python_backend.launcher.companion import Companion
from python_backend.launcher.console import ConsoleReport
from python_backend.launcher.installation import find_installation
from python_backend.launcher.leftovers import Leftovers
from python_backend.launcher.model_repository import ModelRepository, with_models
from python_backend.launcher.preflight.checklist import preflight
from python_backend.launcher.probe import Probe
from python_backend.launcher.ranks import with_ranks
from python_backend.launcher.run import Run
from python_backend.launcher.server import TritonServer
from python_backend.launcher.settings import ServeSettings, add_flags, read_settings
from python_backend.launcher.supervisor import State, Supervisor

OK, FAILED, NOT_READY = 0, 1, 3  # 2 is what argparse ends with


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The arguments, split by whom they concern."""

    command: str
    flags: dict[str, object]  # settings that were given
    companion: list[str] | None  # what follows --exec


def parse(arguments: Sequence[str] | None = None) -> CommandLine:
    """Reads ``arguments``, or those of the process; ends the process with exit code 2 when they make no sense."""
    given = vars(_parser().parse_args(arguments))
    return CommandLine(given.pop("command"), companion=given.pop("exec", None), flags=given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    console = Console()
    line = parse(arguments)
    if line.command == "clean":
        return _clean(console)
    if line.command == "contract":
        print(contract_page())
        return OK
    try:
        settings = read_settings(line.flags, os.environ)
        companion = None if line.companion is None else Companion(line.companion)
    except SetupError as error:
        _parser().error(str(error))
    try:
        return _doctor(console, settings) if line.command == "doctor" else _serve(console, settings, companion)
    except SetupError as error:
        _say(console, str(error))
        return NOT_READY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m python_backend",
        description="Runs Triton with Slipstream's models.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, purpose in (
        ("serve", "start the server and keep it serving"),
        ("doctor", "check everything a server needs, and say what to do"),
    ):
        command = commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        add_flags(command)
        if name == "serve":
            command.add_argument(
                "--exec",
                nargs=argparse.REMAINDER,
                metavar="COMMAND",
                help="run this once the server serves, and stop when it ends, with its exit code; must come last",
            )
    commands.add_parser("clean", help="remove what killed servers left behind")
    commands.add_parser("contract", help="print every tensor of every model, in Markdown")
    return parser


def _serve(console: Console, settings: ServeSettings, companion: Companion | None) -> int:
    installation, options = find_installation(), settings.server_options
    if settings.dry_run:
        run = Run.new()
        try:
            repository = ModelRepository.load(options.model_repository, options.profile, options.models)
            options = with_ranks(with_models(options), repository)
        except SetupError as error:
            _say(console, f"# for an engine of one rank; how many there are is not known: {error}")
        changed = server_environment(installation, options, os.environ).items() - os.environ.items()
        for name, value in sorted(changed):
            _say(console, f"{name}={shlex.quote(value)}")
        _say(console, shlex.join(server_command(installation, options, run)))
        return OK
    _clean(console, quiet=True)
    failed = [finding for finding in preflight(installation, options) if not finding.ok]
    for finding in failed:
        _say(console, str(finding))
    if failed:
        return NOT_READY
    repository = ModelRepository.load(options.model_repository, options.profile, options.models)
    options = with_ranks(options, repository)
    supervisor = Supervisor(
        new_server=lambda: TritonServer(options, installation),
        new_probe=lambda server: Probe.of(repository, server.http_url, server.metrics_url),
        report=ConsoleReport(
            console,
            models=() if companion else repository.models,  # whoever runs a command needs no hint what to ask
            everything=options.log_verbose,
        ),
        companion=companion,
        startup_timeout_s=settings.startup_timeout_s,
        watchdog_interval_s=settings.watchdog_interval_s,
    )
    if supervisor.run() is State.FAILED:
        return FAILED
    return companion.exit_status if companion else OK


def _doctor(console: Console, settings: ServeSettings) -> int:
    findings = list(preflight(find_installation(), settings.server_options))
    console.print(_table(findings))
    return OK if all(finding.ok for finding in findings) else NOT_READY


def _table(findings: list[Finding]) -> Table:
    table = Table(*(Column(title, overflow="fold") for title in ("check", "finding", "ok / what to do")))
    for finding in findings:
        verdict = "[green]ok[/]" if finding.remedy is None else f"[red]{escape(finding.remedy)}[/]"
        table.add_row(escape(finding.check), escape(finding.seen), verdict)
    return table


def _clean(console: Console, quiet: bool = False) -> int:
    leftovers = Leftovers.find()
    leftovers.remove()
    if leftovers or not quiet:
        _say(console, f"removed from earlier runs: {leftovers}")
    return OK


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
