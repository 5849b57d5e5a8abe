"""The pages of the sandbox's sites: a catalogue, three kinds of challenge pages, look-alikes.

The challenge pages contain the signs of real ones, and nothing that could be solved.
"""

from __future__ import annotations

from base64 import b64decode
from html import escape

_CHALLENGES = {
    "managed": """<!DOCTYPE html><html lang="fr"><head><title>Un instant…</title>
<meta http-equiv="refresh" content="390"></head><body><noscript>Activez JavaScript</noscript>
<script>(function(){{window._cf_chl_opt={{cvId:'3',cZone:"{host}",cType:'managed',cRay:'sandbox'}};
var cpo=document.createElement('script');
cpo.src='/cdn-cgi/challenge-platform/h/b/orchestrate/chl_page/v1?ray=sandbox';
document.getElementsByTagName('head')[0].appendChild(cpo);}}());</script></body></html>""",
    "legacy": """<!DOCTYPE HTML><html><head><title>Just a moment...</title>
<meta http-equiv="refresh" content="8"></head><body><h1>Checking your browser, {host}</h1>
<form id="challenge-form" action="/?__cf_chl_jschl_tk__=sandbox" method="POST">
<input type="hidden" name="jschl_vc" value="sandbox"/>
<input type="hidden" id="jschl-answer" name="jschl_answer"/></form></body></html>""",
    "captcha": """<!DOCTYPE html><html><head><title>{host} - Security check</title></head><body>
<form id="challenge-form" action="/?__cf_chl_captcha_tk__=sandbox" method="POST">
<input type="hidden" name="cf_captcha_kind" value="h"></form></body></html>""",
}

_LOOK_ALIKES = {
    "block": (
        403,
        """<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title></head><body>
<h1>Sorry, you have been blocked</h1><p>Error 1020. {host} used Cloudflare to restrict access.</p>
<script>(function(){{window['__CF$cv$params']={{r:'sandbox',m:'x'}};}})();</script></body></html>""",
    ),
    "rate_limit": (
        429,
        """<!DOCTYPE html><html><head><title>Access denied | {host}</title></head><body>
<h1>Error 1015</h1><p>You are being rate limited</p></body></html>""",
    ),
    "turnstile": (
        200,
        """<!DOCTYPE html><html><head><title>Log in</title>
<script src="https://challenges.cloudflare.com/turnstile/v0/api.js" async defer></script></head>
<body><form action="/login" method="POST"><input name="user"><div class="cf-turnstile"
data-sitekey="1x00000000000000000000AA"></div></form></body></html>""",
    ),
    "article": (
        403,
        """<!DOCTYPE html><html><head><title>How a challenge page works</title></head><body>
<p>The page sets <code>window._cf_chl_opt={{cType: 'managed', cRay: '...'}}</code> and loads</p>
<pre>&lt;script src="/cdn-cgi/challenge-platform/h/b/orchestrate/chl_page/v1"&gt;</pre>
<textarea><input type="hidden" name="jschl_vc"></textarea></body></html>""",
    ),
    "forbidden": (403, '{{"error": "forbidden", "host": "{host}"}}'),
}


#: A PNG picture of one pixel.
IMAGE = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGM4IScHAAK2AQU0pnWqAAAAAElFTkSuQmCC"
)


def challenge_page(kind: str, host: str) -> str:
    """Return a challenge page: ``managed`` (today's), ``legacy`` (2020), ``captcha`` (2021)."""
    return _CHALLENGES[kind].format(host=escape(host))


def look_alike(kind: str, host: str) -> tuple[int, str]:
    """Return the status and text of a page that is not a challenge."""
    status, page = _LOOK_ALIKES[kind]
    return status, page.format(host=escape(host))


def refresh_page(to: str) -> str:
    """Return a page that redirects the browser to *to*."""
    return f'<html><head><meta http-equiv="refresh" content="0; url={escape(to)}"></head></html>'


def catalogue_page(host: str, path: str, items: int) -> str:
    """Return a page of the catalogue: ``/`` lists all items, ``/item/N`` links to the next one."""
    name = path.rpartition("/")[2]
    if path.startswith("/item/") and name.isdigit():
        number = int(name)
        following = f'<a class="next" href="/item/{number + 1}">next</a>' if number < items else ""
        content = (
            f'<p class="price">{number * 7 % 100}.90</p>'
            f'<img src="/image/{number}.png" alt="">{following}'
        )
        title = f"Item {number}"
    else:
        links = "".join(
            f'<li><a class="item" href="/item/{number}">Item {number}</a></li>'
            for number in range(1, items + 1)
        )
        title, content = "Catalogue", f"<ul>{links}</ul>"
    return (
        f"<!DOCTYPE html><html><head><title>{title} | {escape(host)}</title></head>"
        f"<body><h1>{title}</h1>{content}</body></html>"
    )
