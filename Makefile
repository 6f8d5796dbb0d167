# Everything runs in .venv, made once; a change of pyproject.toml renews it.
VENV   := .venv
PYTHON := $(VENV)/bin/python
DEMO   := output/demo
CONFIG := shapes/mta_clip_tiny
GPU    := output/gpu
BUNDLE := output/bundle

.PHONY: help setup demo test coverage lint format benchmark gpu bundle audit mutation clean

help:
	@echo "make setup      install everything into $(VENV)"
	@echo "make demo       make the shapes dataset, train a tiny MTA-CLIP on it, evaluate, draw predictions"
	@echo "make test       run the tests (minutes on two cores)"
	@echo "make coverage   the same, with branch coverage of mta_clip/"
	@echo "make lint       ruff check and format check"
	@echo "make benchmark  time the models against transformers' Mask2Former"
	@echo "make gpu        nine minutes of tests and measurements on a GPU; tables in $(GPU)/results.md"
	@echo "make audit      detectron2-cdo against the official Detectron2, known vulnerabilities, dangerous calls"
	@echo "make mutation   change the code in small ways and count the changes that no test notices"
	@echo "make bundle     wheels for a machine without a package index (PYTHON_VERSION=$(PYTHON_VERSION)), in $(BUNDLE)"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip --upgrade
	$(PYTHON) -m pip install --quiet uv
	UV_PROJECT_ENVIRONMENT=$(VENV) $(VENV)/bin/uv sync --inexact
	@touch $@

# Waiting threads sleep instead of spinning: where other programs use the cores too, spinning costs a factor of ten.
demo: export OMP_WAIT_POLICY := PASSIVE
demo: setup
	$(VENV)/bin/mta-clip train --config-file $(CONFIG) --overwrite OUTPUT_DIR $(DEMO)
	$(VENV)/bin/mta-clip predict --config-file $(DEMO) \
		--input 'datasets/shapes/val/images/000?0.png' --output $(DEMO)/overlays
	@$(PYTHON) -c "import json; print('mIoU %.2f' % json.load(open('$(DEMO)/metrics.json'))['sem_seg/mIoU'])"

test: setup
	$(PYTHON) -m pytest -n 2 --dist worksteal

coverage: setup
	$(PYTHON) -m pytest -n 2 --dist worksteal --cov mta_clip --cov-branch --cov-report term:skip-covered --cov-fail-under 95

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

benchmark: setup
	$(PYTHON) tools/benchmark.py

gpu: setup
	$(PYTHON) tools/gpu_campaign.py --minutes 9 --output $(GPU)

audit: setup
	$(PYTHON) tools/audit.py

mutation: setup
	OMP_NUM_THREADS=1 nice -n 3 $(PYTHON) tools/reliability/mutate.py --count 500 --minutes 15

PYTHON_VERSION := 3.12

bundle: setup
	rm -rf $(BUNDLE)
	$(PYTHON) tools/make_bundle.py --python $(PYTHON_VERSION) --output $(BUNDLE)

clean:
	rm -rf output build dist *.egg-info .pytest_cache .ruff_cache
