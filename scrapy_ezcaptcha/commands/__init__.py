"""``scrapy ezcaptcha``: checks the setup, and calls the service manually.

Scrapy finds the command by the entry point ``scrapy.commands``. Results go to standard output,
and everything else to standard error. Only a terminal gets colors.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from scrapy_ezcaptcha.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each is a module here, with add_arguments(parser) and run(settings, options) -> exit status.
ACTIONS = {
    "doctor": "check the setup, and say what to do if something is wrong",
    "check": "tell whether a page is a challenge, and how it was recognized",
    "solve": "solve one challenge (this costs one task)",
    "balance": "show what is left in the account",
    "clearances": "list the clearances in the store, or delete them",
    "report": "show the costs in a ledger",
}


class EzCaptchaCommand(ScrapyCommand):
    """The command with its actions."""

    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_LEVEL": "WARNING"}

    def syntax(self) -> str:
        """Return the arguments, in short."""
        return f"{{{','.join(ACTIONS)}}} [options]"

    def short_desc(self) -> str:
        """Return what the command is for."""
        return "Check the setup of scrapy-ezcaptcha, and call the service manually"

    def long_desc(self) -> str:
        """Return the same for ``--help``, and how to see more."""
        more = '"scrapy ezcaptcha ACTION --help" describes one action and its options.'
        return f"{self.short_desc()}. {more}"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add Scrapy's options before and after the action, and the options of each action."""
        super().add_options(parser)
        actions = parser.add_subparsers(
            title="Actions",
            prog="scrapy ezcaptcha",
            metavar="ACTION",
            required=True,
            parser_class=_ActionParser,
        )
        for name, description in ACTIONS.items():
            action = actions.add_parser(name, help=description, description=description)
            super().add_options(action)
            module = import_module(f"{__name__}.{name}")
            module.add_arguments(action)
            action.set_defaults(run=module.run, error=action.error)

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """Copy the options into the settings."""
        if args:
            opts.error(f"unrecognized arguments: {' '.join(args)}")
        super().process_options(args, opts)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:  # noqa: ARG002
        """Run the action; its exit status is that of the command."""
        from scrapy_ezcaptcha.commands.console import stderr  # noqa: PLC0415  (rich takes its time)

        assert self.settings is not None
        try:
            self.exitcode = opts.run(self.settings, opts)
        except UsageError as error:
            opts.error(str(error))
        except ConfigurationError as error:
            for problem in error.problems:
                stderr().print(problem, style="red")
            self.exitcode = 2


class _ActionParser(argparse.ArgumentParser):
    """Parses the arguments after an action, and keeps the options before it."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        parsed, rest = super().parse_known_args(args, namespace)
        for name in ("logfile", "loglevel", "nolog", "profile", "pidfile", "set", "pdb"):
            if getattr(parsed, name, None) == self.get_default(name):
                delattr(parsed, name)
        return parsed, rest
