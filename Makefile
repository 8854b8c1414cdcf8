# A fresh machine needs Python 3.10 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Files are handed to three processes, of which each has its own Ray: much of the time they wait.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install install-dev demo check test lint clean

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) -e ".[dev]"
	touch $@

demo: install
	$(BIN)/python jobs/caption_dataset.py --config configs/caption/photographs.yaml --input.uri docs/images/photographs --output.uri demo/photographs
	$(BIN)/python jobs/make_scenes.py --out demo/scenes --split test --count 200
	$(BIN)/python jobs/caption_dataset.py --config configs/caption/demo.yaml --input.uri demo/scenes/images --output.uri demo/captions
	$(BIN)/python jobs/evaluate.py --captions demo/captions --references demo/scenes/captions.json --out demo/results.json
	$(BIN)/python jobs/gallery.py --run demo/photographs demo/captions --names Photographs Scenes --references demo/scenes/captions.json --out demo/gallery.html

# Under 3 minutes on two cores; `make test` has the other tests.
check: lint
	$(PYTEST) -q -m "not slow"

test: install-dev
	sh tests/install_browser.sh
	$(PYTEST)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-* build demo
