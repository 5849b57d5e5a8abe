BOT_NAME = "shop"
SPIDER_MODULES = ["shop.spiders"]

# All that scrapy-ezcaptcha needs. The key comes from the environment variable
# EZCAPTCHA_CLIENT_KEY, so that no file contains it.
ADDONS = {"scrapy_ezcaptcha.Addon": 500}

# Never pay for more than this in one crawl.
EZCAPTCHA_MAX_TASKS = 20

ROBOTSTXT_OBEY = True
FEEDS = {"items/%(name)s.json": {"format": "json", "overwrite": True, "indent": 2}}
TELNETCONSOLE_ENABLED = False
