"""``scrapy ezcaptcha balance``: shows what is left in the account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy_ezcaptcha.commands.console import stderr, stdout
from scrapy_ezcaptcha.commands.reactor import Interrupted
from scrapy_ezcaptcha.commands.service import config_with_key, with_client
from scrapy_ezcaptcha.errors import EzCaptchaError
from scrapy_ezcaptcha.service.client import EzCaptchaClient
from scrapy_ezcaptcha.service.wire import points_in_words

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from scrapy.settings import BaseSettings


def add_arguments(parser: ArgumentParser) -> None:
    """Add no arguments."""


def run(settings: BaseSettings, options: Namespace) -> int:  # noqa: ARG001
    """Print the balance; return 1 if the service does not tell it."""
    config = config_with_key(settings)
    try:
        points = with_client(settings, config, EzCaptchaClient.get_balance)
    except EzCaptchaError as error:
        stderr().print(f"Could not get the balance: {error}", style="red")
        return 1
    except Interrupted:
        return 130
    stdout().print(points_in_words(points))
    return 0
