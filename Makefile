# Needs Python 3.10+ and make; everything else is installed into .venv.
PYTHON ?= python3
SECONDS ?= 600
MINUTES ?= 30
RUNS ?= 20
RUN := .venv/bin/python

# tox finds the Pythons of pyenv only by their names.
PYENV_PYTHONS := $(shell pyenv versions --bare 2>/dev/null | grep -E '^3\.1[0-3]' | paste -sd: -)

.PHONY: demo test unit examples tox changelog docs fuzz soak ends faults audit bench lint wheel scrapy-tests install clean

demo: .venv/demo  ## run the example spiders in the sandbox; with URL= and PROXY=, against the real service
	@$(RUN) example_project/demo.py $(if $(URL),--url '$(URL)') $(if $(PROXY),--proxy '$(PROXY)')

test unit examples: export PYTHONDONTWRITEBYTECODE =  # else each worker rewrites all assertions

test: .venv/test  ## all tests, with coverage
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest -n 6 --dist worksteal $(ARGS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

unit: .venv/test  ## the tests that need no crawl
	$(RUN) -m pytest tests/unit $(ARGS)

examples: .venv/test  ## the unit tests, with twenty times as many examples for each property
	$(RUN) -m pytest -n 4 --dist worksteal --hypothesis-profile=thorough tests/unit $(ARGS)

tox: .venv/tox  ## all tests with the oldest of everything, and with each Python present; ARGS="-e lowest"
	$(if $(PYENV_PYTHONS),PYENV_VERSION=$(PYENV_PYTHONS)) $(RUN) -m tox run $(ARGS)

changelog: .venv/docs  ## move newsfragments/ into CHANGELOG.md, for VERSION
	$(RUN) -m towncrier build --yes --version $(VERSION)

docs: .venv/docs  ## the documentation, as docs/_build/index.html
	$(RUN) -m sphinx -q -W --keep-going -b html docs docs/_build

fuzz: .venv/fuzz  ## both fuzz targets, for SECONDS each
	$(RUN) fuzz/answer.py -max_total_time=$(SECONDS) -max_len=1024 -print_final_stats=1
	$(RUN) fuzz/challenge.py -max_total_time=$(SECONDS) -max_len=1024 -print_final_stats=1

soak: .venv/test  ## a crawl of MINUTES with random faults
	$(RUN) tests/soak.py --minutes $(MINUTES)

ends: .venv/test  ## Ctrl-C and kill -9 in every phase of a solve, RUNS times each
	RUNS=$(RUNS) $(RUN) -m pytest -n 4 tests/crawl/test_ending.py $(ARGS)

faults: .venv/test  ## write docs/faults.md again
	$(RUN) tests/fault_table.py

audit: .venv/audit  ## known vulnerabilities of the locked dependencies
	$(RUN) -m pip_audit --no-deps --disable-pip -r requirements/newest.txt

bench: .venv/bench  ## all benchmarks, about ten minutes; ARGS=--quick for a first look
	$(RUN) benchmarks/run.py $(ARGS)
	$(RUN) benchmarks/stores.py $(ARGS)

lint: .venv/test .venv/lint  ## style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pyright

wheel: .venv/lint  ## build wheel (twice, must be identical) and sdist, install each
	$(RUN) tests/check_wheel.py

scrapy-tests: .venv/test  ## Scrapy's own tests, with the middleware in each crawler; ARGS="--mode idle"
	$(RUN) tests/scrapy_tests.py $(ARGS)

install:  ## everything that .ci/run needs
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test,tox,docs,lint,fuzz]'
	@touch $(addprefix .venv/,test tox docs lint fuzz)

clean:
	rm -rf .venv .tox build dist docs/_build htmlcov *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis example_project/items

.venv/demo .venv/test .venv/tox .venv/docs .venv/fuzz .venv/audit .venv/bench .venv/lint: setup.cfg pyproject.toml
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	@$(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[$(if $(filter demo,$(@F)),sandbox,$(@F))]'
	@touch $@
