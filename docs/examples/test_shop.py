import json
import os
import subprocess


def test_all_items_for_one_task(ezcaptcha_sandbox, tmp_path):
    items = tmp_path / "items.json"
    command = ["scrapy", "runspider", "opt_in.py", "-O", str(items)]
    command += ezcaptcha_sandbox.arguments()
    environment = {**os.environ, **ezcaptcha_sandbox.environment()}
    subprocess.run(command, env=environment, check=True)
    assert len(json.loads(items.read_text())) == 30
    assert ezcaptcha_sandbox.report()["tasks"] == 1
