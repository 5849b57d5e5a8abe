"""Everything around Scrapy's crawl: targets, waiting requests, proxies, the HTTP cache."""
