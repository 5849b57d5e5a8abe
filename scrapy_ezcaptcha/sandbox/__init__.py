"""A sandbox on loopback: it simulates the solving service, protected sites and a proxy.

It serves the demo, the tests of this project, and your tests, without an account and without a
network. It needs the extra ``sandbox`` (``pip install scrapy-ezcaptcha[sandbox]``)::

    with Sandbox() as sandbox:
        settings.update(sandbox.settings())
        # crawl http://shop.example/ with meta={"proxy": sandbox.proxy_url()}
        assert sandbox.report()["tasks"] == 1

From the shell: ``python -m scrapy_ezcaptcha.sandbox``.
"""

from __future__ import annotations

try:
    import h2 as _h2  # noqa: F401
    import h11 as _h11  # noqa: F401
    import trustme as _trustme  # noqa: F401
except ImportError as error:
    # Named after this package, so that python -m prints one line instead of a traceback.
    raise ImportError(
        f"the sandbox needs {error.name}: pip install 'scrapy-ezcaptcha[sandbox]'", name=__name__
    ) from None

from scrapy_ezcaptcha.sandbox.edge import Edge, Visit
from scrapy_ezcaptcha.sandbox.exits import Exits
from scrapy_ezcaptcha.sandbox.sandbox import Sandbox
from scrapy_ezcaptcha.sandbox.service import USER_AGENT, Fault, Service, Task
from scrapy_ezcaptcha.sandbox.sites import DEFAULT_SITES, Protection, Site

__all__ = [
    "DEFAULT_SITES",
    "USER_AGENT",
    "Edge",
    "Exits",
    "Fault",
    "Protection",
    "Sandbox",
    "Service",
    "Site",
    "Task",
    "Visit",
]
