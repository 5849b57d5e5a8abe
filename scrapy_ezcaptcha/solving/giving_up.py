"""What happens to an unsolved challenge: its response goes to the spider, with the reason."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.crawl.memo import location_of
from scrapy_ezcaptcha.errors import ExitError, NoExitLeft
from scrapy_ezcaptcha.lru import Once
from scrapy_ezcaptcha.signals import challenge_failed, send

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response

    from scrapy_ezcaptcha.crawl.waiting import WaitingRequests
    from scrapy_ezcaptcha.errors import EzCaptchaError
    from scrapy_ezcaptcha.solving.ledger import Ledger

UNSOLVED_FLAG = "ezcaptcha-unsolved"
ERROR_META = "ezcaptcha_error"


@dataclass(eq=False)
class GivingUp:
    """Passes on unsolved challenges, and logs a warning once for each reason and zone."""

    crawler: Crawler
    requests: WaitingRequests
    ledger: Ledger
    log: logging.LoggerAdapter[Any]

    def __post_init__(self) -> None:
        self._said: Once[str] = Once(capacity=1000)

    async def hand_on(
        self, request: Request, response: Response, error: EzCaptchaError
    ) -> Response:
        """Return the challenge *response* for the spider."""
        self.requests.ended(request)
        self.ledger.gave_up(location_of(request).zone, error.code)
        response.flags.append(UNSOLVED_FLAG)
        request.meta[ERROR_META] = str(error)
        zone = location_of(request).zone
        cause = error.cause if isinstance(error, ExitError) else f"{error.code} {zone}"
        is_new = not isinstance(error, NoExitLeft) and self._said.is_first(cause)
        level = logging.WARNING if is_new else logging.DEBUG
        self.log.log(level, "The challenge of %s stays unsolved: %s", request, error)
        await send(self.crawler, challenge_failed, request=request, response=response, error=error)
        return response
