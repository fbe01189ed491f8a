# Two commands for a newcomer: make demo, make test. Both make the same .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint packaging browser deploy exactness fuzz robustness soak benchmarks proto constraints format clean help

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[training,recording,viewer,dev]'
	touch $@

demo: $(VENV)/.installed  ## stream a synthetic stereo drive through both services; leaves out/demo.png
	$(BIN)/ndsc demo

test: $(VENV)/.installed  ## every test that needs no network beyond loopback
	$(BIN)/pytest

lint: $(VENV)/.installed  ## formatting, linters, types, import rule, wire contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto

packaging: $(VENV)/.installed  ## install the wheel in an empty environment and serve from it (uses the package index)
	$(BIN)/pytest -m packaging

browser: $(VENV)/.installed  ## the viewer's page in a real Chromium (Debian: apt-get install chromium)
	$(BIN)/pytest -m browser

deploy: $(VENV)/.installed  ## images, compose, monitoring and a proxy, for real (as root; Debian: docker.io iptables docker-compose debootstrap haproxy prometheus chromium)
	$(BIN)/pytest -m deploy -s

exactness: $(VENV)/.installed  ## prove that bits decode alike everywhere, emulated aarch64 too (as root, 20 to 40 minutes; leaves out/exactness.json)
	$(BIN)/python -m tests.exactness -o out/exactness.json $(EXACTNESS)

fuzz: $(VENV)/.installed  ## 200,000 mutated payloads and files (20 minutes; leaves out/fuzz.json)
	$(BIN)/python -m tests.fuzz --count 200000 -o out/fuzz.json

robustness: $(VENV)/.installed  ## every promise of the stream under every fault (as root, at most 10 minutes; leaves out/robustness.json)
	$(BIN)/python -m tests.robustness -o out/robustness.json $(ROBUSTNESS)

soak: $(VENV)/.installed  ## 30 minutes at 8 cameras: memory, file descriptors, every frame accounted (leaves out/soak.json)
	$(BIN)/python -m tests.robustness.soak --minutes 30 -o out/soak.json

benchmarks: $(VENV)/.installed  ## load, freshness, overhead, rate control and speed of the services, on a quiet machine (leaves out/*.json)
	for name in load freshness overhead rate speed; do $(BIN)/python -m tests.benchmarks.$$name || exit 1; done

format: $(VENV)/.installed  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.installed  ## regenerate ndsc/v1 and docs/ERRORS.md from proto/
	$(BIN)/python proto/generate.py
	$(BIN)/python proto/errors_table.py

constraints: $(VENV)/.installed  ## write the installed versions to constraints.txt, but for authorities, which must be current
	( head -n 2 constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -v '^certifi=' | sed 's/+cpu$$//' ) > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove what the other commands made, the environment too
	rm -rf $(VENV) out dist build
