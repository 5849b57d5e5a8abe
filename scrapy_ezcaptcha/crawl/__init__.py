"""What has to do with Scrapy: targets, waiting requests, proxies, the HTTP cache."""
