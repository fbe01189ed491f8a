PYTHON ?= python3
PROTOS := $(wildcard proto/ndsc/v1/*.proto)

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet -c constraints.txt -e '.[training,dev]'
	touch $@

.PHONY: proto
proto: .venv/.installed  ## regenerate ndsc/v1 from proto/
	.venv/bin/python proto/generate.py
