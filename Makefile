# Everything runs in .venv, made once; a change of pyproject.toml renews it.
VENV   := .venv
PYTHON := $(VENV)/bin/python
DEMO   := output/demo
CONFIG := shapes/mta_clip_tiny
GPU    := output/gpu
BUNDLE := output/bundle
FUZZ   := output/fuzz

.PHONY: help setup demo app test test-browser coverage lint docs docs-serve notebooks format benchmark gpu bundle audit mutation fuzz kill processes soak clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## install everything into .venv

$(VENV)/.installed: pyproject.toml
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip --upgrade
	$(PYTHON) -m pip install --quiet uv
	UV_PROJECT_ENVIRONMENT=$(VENV) $(VENV)/bin/uv sync --inexact
	@touch $@

# Waiting threads sleep instead of spinning: where other programs use the cores too, spinning costs a factor of ten.
demo: export OMP_WAIT_POLICY := PASSIVE
demo: setup ## make the shapes dataset, train a tiny MTA-CLIP on it, evaluate, draw predictions
	$(VENV)/bin/mta-clip train --config-file $(CONFIG) --overwrite OUTPUT_DIR $(DEMO)
	$(VENV)/bin/mta-clip predict --config-file $(DEMO) \
		--input 'datasets/shapes/val/images/000?0.png' --output $(DEMO)/overlays
	@$(PYTHON) -c "import json; print('mIoU %.2f' % json.load(open('$(DEMO)/metrics.json'))['sem_seg/mIoU'])"

app: export OMP_WAIT_POLICY := PASSIVE
app: setup ## a page in the browser, with the model of make demo; Ctrl-C stops it
	@test -f $(DEMO)/config.yaml || { echo "there is no model in $(DEMO): run make demo first"; exit 1; }
	UV_PROJECT_ENVIRONMENT=$(VENV) $(VENV)/bin/uv sync --inexact --extra app
	$(VENV)/bin/mta-clip app --model $(DEMO) --examples 'datasets/shapes/val/images/000?0.png'

test-browser: setup ## the tests of that page, in headless Chromium (apt install chromium chromium-driver)
	UV_PROJECT_ENVIRONMENT=$(VENV) $(VENV)/bin/uv sync --inexact --extra app --group browser
	$(PYTHON) -m pytest -m browser -rs

test: setup ## run the tests (minutes on two cores)
	$(PYTHON) -m pytest -n 2 --dist worksteal

coverage: setup ## the same, with branch coverage of mta_clip/
	$(PYTHON) -m pytest -n 2 --dist worksteal --cov mta_clip --cov-branch --cov-report term:skip-covered --cov-fail-under 95

lint: setup ## ruff check, ruff format --check, mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

notebooks: setup ## run the notebooks, and store their outputs (minutes)
	UV_PROJECT_ENVIRONMENT=$(VENV) $(VENV)/bin/uv sync --inexact --group notebooks
	$(PYTHON) tools/run_notebooks.py

docs: setup ## the pages as a site, in site/; fails for dead links
	UV_PROJECT_ENVIRONMENT=$(VENV) $(VENV)/bin/uv sync --inexact --group docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

docs-serve: setup ## the same, shown while you write
	UV_PROJECT_ENVIRONMENT=$(VENV) $(VENV)/bin/uv sync --inexact --group docs
	$(VENV)/bin/mkdocs serve

format: setup ## apply what ruff can mend by itself
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

benchmark: setup ## time the models against transformers' Mask2Former
	$(PYTHON) tools/benchmark.py

# PYTHON=python3 takes a Python that has everything already, as one without a package index.
gpu: $(if $(filter $(VENV)/%,$(PYTHON)),setup) ## nine minutes of tests and measurements on a GPU; tables in output/gpu/results.md
	$(PYTHON) tools/gpu_campaign.py --minutes 9 --output $(GPU)

# Root can also fill disks and mount folders read-only: KILL=--faults
kill: setup ## kill jobs 200 times, and compare what they leave; docs/reliability.md
	$(PYTHON) tools/reliability/kill_anywhere.py --kills 200 $(KILL)

processes: setup ## two and four processes of which one goes wrong
	$(PYTHON) tools/reliability/process_faults.py

soak: setup ## 2000 iterations, in which nothing may grow
	$(PYTHON) tools/reliability/soak.py

audit: setup ## detectron2-cdo against the official Detectron2, known vulnerabilities, dangerous calls
	$(PYTHON) tools/audit.py

mutation: setup ## change the code in small ways and count the changes that no test notices
	OMP_NUM_THREADS=1 nice -n 3 $(PYTHON) tools/reliability/mutate.py --minutes 30

fuzz: setup ## give 5,000 hostile and broken inputs to the code; table in output/fuzz
	$(PYTHON) tools/reliability/fuzz.py --inputs 5000 --minutes 60 --output $(FUZZ)

PYTHON_VERSION := 3.12

bundle: setup ## wheels for a machine without a package index (PYTHON_VERSION=3.12), in output/bundle
	rm -rf $(BUNDLE)
	$(PYTHON) tools/make_bundle.py --python $(PYTHON_VERSION) --output $(BUNDLE)

clean: ## delete what runs, builds and tests leave, output/ included
	rm -rf output build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
