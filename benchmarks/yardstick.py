"""The cheapest way to get protected pages. It does not import the package."""


class HeadersMiddleware:
    """Adds the headers of an existing clearance."""

    def __init__(self, headers):
        self.headers = headers

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler.settings.getdict("BOUGHT_HEADERS"))

    def process_request(self, request):
        for name, value in self.headers.items():
            request.headers[name] = value
