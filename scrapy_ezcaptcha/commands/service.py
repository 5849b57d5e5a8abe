"""What actions that call the service have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from scrapy_ezcaptcha.commands.reactor import run
from scrapy_ezcaptcha.config import KEY_SOURCES, Config
from scrapy_ezcaptcha.errors import ConfigurationError
from scrapy_ezcaptcha.service.client import EzCaptchaClient

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from scrapy.settings import BaseSettings

T = TypeVar("T")


def config_with_key(settings: BaseSettings) -> Config:
    """Return the checked settings.

    Raises:
        ConfigurationError: a setting is unusable, or there is no key.
    """
    config = Config.from_settings(settings)
    if not config.client_key:
        raise ConfigurationError([f"no EzCaptcha key; set {KEY_SOURCES}"])
    return config


def with_client(
    settings: BaseSettings,
    config: Config,
    use: Callable[[EzCaptchaClient], Coroutine[Any, Any, T]],
) -> T:
    """Return the result of *use* with a client of the service."""

    async def main() -> T:
        client = EzCaptchaClient.from_config(config)
        try:
            return await use(client)
        finally:
            await client.close()

    return run(settings, main)
