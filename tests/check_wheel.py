"""Builds wheel and sdist and installs each into an empty environment of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import importlib.resources, scrapy_ezcaptcha
from scrapy_ezcaptcha import (
    Addon, ApiError, CloudFlare5STask, EzCaptchaClient, EzCaptchaError, EzCaptchaMiddleware,
    Solution, SolveTimeout, TransportError, UnexpectedResponse, is_challenge,
)
assert importlib.resources.files("scrapy_ezcaptcha").joinpath("py.typed").is_file()
assert "site-packages" in scrapy_ezcaptcha.__file__, scrapy_ezcaptcha.__file__
print(scrapy_ezcaptcha.__version__)
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wheel check ") as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT)
        files = sorted((folder / "dist").iterdir())
        run(sys.executable, "-m", "twine", "check", "--strict", *files)
        for number, file in enumerate(files):
            python = empty_environment(folder / str(number))
            run(python, "-m", "pip", "install", "--quiet", file)
            run(python, "-c", PROBE, cwd=folder)
    print("wheel and sdist are fine")


def empty_environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def run(*command: object, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=cwd)


if __name__ == "__main__":
    main()
