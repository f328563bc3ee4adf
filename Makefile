# Two commands do all the set-up on a machine with Python, make and git:
#   make demo    installs into .venv, then trains, measures and compares two runs on the bundled images
#   make test    installs into .venv, then runs the tests on all cores; not those of slow, cluster, browser, gpu and fuzz
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow coverage cluster browser gpu fuzz lint types docs gallery bench study study-small study-page study-data install clean

install: $(VENV)/.installed
$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,docs]'
	touch $@

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash pipelines/demo.sh

# Tests that share an expensive fixture are one group (pytest.mark.xdist_group), so that only one worker makes it.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadgroup

test: $(VENV)/.developing
	$(PYTEST)

# What "make test" leaves out.
slow: $(VENV)/.developing
	$(PYTEST) -m slow

# Apart from "make test", which it would slow down by 40 %. Python 3.12 or newer is faster with COVERAGE_CORE=sysmon.
coverage: $(VENV)/.developing
	$(PYTEST) --cov

# Needs root, and Debian's slurm-wlm, munge and iproute2.
cluster: $(VENV)/.developing
	bash tests/cluster/slurm.sh start .slurm
	. .slurm/environment; CLUSTER_TESTS=1 $(BIN)/python -m pytest -n 0 tests/cluster; code=$$?; \
	  bash tests/cluster/slurm.sh stop .slurm; exit $$code

# Needs Chromium. The browser of the machine is used; Playwright downloads none.
browser: $(VENV)/.developing
	$(BIN)/python -m pip install --quiet playwright
	BROWSER_TESTS=1 $(BIN)/python -m pytest -n 0 tests/browser

# The commands on a GPU, beside the CPU.
gpu: $(VENV)/.installed
	$(BIN)/python tests/gpu

fuzz: $(VENV)/.developing
	$(BIN)/python tests/fuzz

lint: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.developing
	$(BIN)/mypy

docs: $(VENV)/.developing
	$(BIN)/python docs/make_cli.py --check
	$(BIN)/sphinx-build -q -W -b html docs docs/_build/html

# Runs the examples of docs/gallery and renews their pictures: "make gallery", or some, "make gallery ONLY='duplicates'".
gallery: install
	$(BIN)/python -m pip install --quiet --editable '.[lightning,transformers,hf]'
	$(BIN)/python docs/gallery/run.py $(ONLY)

bench: install
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/views.py
	$(BIN)/python benchmarks/file_views.py
	$(BIN)/python benchmarks/cache.py
	$(BIN)/python benchmarks/dataset_size.py --names-only 1000000
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/collapse.py
	$(BIN)/python benchmarks/reprs.py
	$(BIN)/python benchmarks/knn.py
	$(BIN)/python benchmarks/probe.py

# docs/study-plan.md. The images must be in study/data, by pipelines/study/prepare.py. Both go on where they stopped.
STUDY := pipelines/study
WITH_STUDY = PATH="$(CURDIR)/$(BIN):$$PATH"

# Six runs, about half an hour of a core, and their conclusion: do more images lower the rank of a small network?
study-small: study-data
	$(WITH_STUDY) bash $(STUDY)/study.sh 2 '^1a-w4-n(500|all)-'
	$(BIN)/python $(STUDY)/gather.py study/small.csv
	$(BIN)/python $(STUDY)/report.py study/small.csv small

# 195 runs, about 17 core-hours of an Intel Xeon (docs/study.md). The results are gathered also if some runs failed.
study: study-data
	-$(WITH_STUDY) bash $(STUDY)/study.sh $$(nproc)
	$(BIN)/python $(STUDY)/gather.py study/study.csv
	$(BIN)/python $(STUDY)/report.py study/study.csv > study/tables.md
	$(BIN)/python $(STUDY)/figures.py study/study.csv study

# What the documentation has of the committed table: the page of all tables, the figures, and the forecast of rank.
study-page: $(VENV)/.developing
	$(BIN)/python $(STUDY)/report.py docs/_static/study.csv > study-tables.part
	mv study-tables.part docs/study-tables.md
	$(BIN)/python $(STUDY)/figures.py docs/_static/study.csv docs/_static
	$(BIN)/python $(STUDY)/fit_forecast.py docs/_static/study.csv

study-data: install
	$(BIN)/python -m pip install --quiet --editable '.[study]'
	test -e study/data/fashion || $(BIN)/python $(STUDY)/prepare.py fashion /usr/share/datasets/fashion-mnist

clean:
	rm -rf $(VENV) demo docs/_build build htmlcov .coverage *.egg-info
