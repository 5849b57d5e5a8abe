BOT_NAME = "shop"
SPIDER_MODULES = ["shop.spiders"]

# All that scrapy-ezcaptcha needs; the key is taken from the environment variable
# EZCAPTCHA_CLIENT_KEY, so that it is in no file.
ADDONS = {"scrapy_ezcaptcha.Addon": 500}

# Never pay for more than this in one crawl.
EZCAPTCHA_MAX_TASKS = 20

ROBOTSTXT_OBEY = True
FEEDS = {"items/%(name)s.json": {"format": "json", "overwrite": True, "indent": 2}}
TELNETCONSOLE_ENABLED = False
