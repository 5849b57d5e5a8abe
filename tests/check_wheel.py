"""Builds wheel and sdist, and installs each into its own empty environment.

The wheel is built twice, the second time from the sdist and in another folder. Both must have the
same bytes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
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
        os.environ["SOURCE_DATE_EPOCH"] = time_of_release()
        build = (sys.executable, "-m", "build")
        run(*build, "--outdir", folder / "dist", ROOT)
        files = sorted((folder / "dist").iterdir())
        wheel, sdist = sorted(files, key=lambda file: file.suffix != ".whl")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "again", filter="data")
        (source,) = (folder / "again").iterdir()
        run(*build, "--wheel", "--outdir", folder / "again", source)
        if wheel.read_bytes() != (folder / "again" / wheel.name).read_bytes():
            sys.exit("two builds of the wheel differ")
        run(sys.executable, "-m", "twine", "check", "--strict", *files)
        for number, file in enumerate(files):
            python = empty_environment(folder / str(number))
            run(python, "-m", "pip", "install", "--quiet", file)
            run(python, "-c", PROBE, cwd=folder)
        check_description(wheel)
    print("wheel and sdist are fine")


def check_description(wheel: Path) -> None:
    """Links to files of the repository lead nowhere on a package index."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        text = archive.read(name).decode()
    if "# scrapy-ezcaptcha" not in text or "`docs/setup.md`" not in text:
        sys.exit("the description of the wheel is not the README")
    if dead := re.findall(r"\]\((?!https?://)([^)]*)\)", text):
        sys.exit(f"the description of the wheel has dead links: {dead}")


def time_of_release() -> str:
    """The time of the last commit in seconds; a fixed time if there is no repository."""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "1700000000"


def empty_environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def run(*command: object, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=cwd)


if __name__ == "__main__":
    main()
