# `make run` and `make test` need Python 3.11 or newer, make and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The newest Flower that fedneg knows, with all that its own constraints pin.
NEWEST := .venv-newest
# One more than CI has cores: some tests wait for Flower's programs.
WORKERS ?= 3
QUIETLY := --quiet --disable-pip-version-check
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
# What a release of Flower can break: grids, messages, `flwr run`, real SuperNodes.
SEAM := tests/test_flower_internals.py tests/test_flower_hub.py \
  tests/test_golden.py tests/engines \
  tests/test_forgettable.py tests/test_forgettable_methods.py \
  tests/test_forgettable_strategies.py tests/test_forgettable_refused.py tests/test_serve.py \
  tests/test_serve_answers.py tests/test_serve_verdict.py \
  tests/strategies/test_base.py tests/strategies/test_roster.py \
  tests/integration/test_real_clients.py tests/integration/test_flwr_run.py \
  tests/integration/test_serve_ray.py tests/integration/test_serve_nodes.py \
  tests/integration/test_ray.py tests/integration/test_up.py \
  tests/integration/test_examples.py::test_flowers_template_forgets_under_flwr_run

.PHONY: help run paper compare test test-all test-newest lint format bench bench-capacity bench-judge hub clean
help:
	@echo 'make run     train a federation, forget client 4, write a report to outputs/'
	@echo 'make paper   reproduce the paper (outputs/paper)'
	@echo 'make compare all forgetting methods side by side (an hour on the digits, hours on MNIST)'
	@echo 'make test    the tests            make lint   ruff, formatting, mypy'
	@echo 'make test-all  with a kill at every step of a run: an hour more'
	@echo 'make test-newest  the tests of the seam to Flower, on its newest release'
	@echo 'make hub     the folder that `flwr app publish` takes, in dist/hub/'
	@echo 'make bench   measurements         make clean  remove what these made'

# Made anew when missing or older than what it is made from.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11'; exit 2; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(QUIETLY) -c constraints.txt torch torchvision
	$(BIN)/pip install $(QUIETLY) -c constraints.txt -e '.[dev]'
	touch $@

# Sees what .venv has, torch above all; pip installs what its constraints want otherwise,
# which is found first.
$(NEWEST)/.installed: $(STAMP) constraints-newest.txt
	rm -rf $(NEWEST)
	$(BIN)/python -m venv $(NEWEST)
	$(BIN)/python -c '$(SITE)' > "$$($(NEWEST)/bin/python -c '$(SITE)')/of_venv.pth"
	$(NEWEST)/bin/pip install $(QUIETLY) -c constraints-newest.txt -e '.[dev]'
	touch $@

run: $(STAMP)
	$(BIN)/fedneg attack=backdoor retrain=remaining verdict.looks=2 $(ARGS)

paper: $(STAMP)
	$(BIN)/fedneg experiment=paper $(ARGS)

compare: $(STAMP)
	$(BIN)/fedneg compare $(ARGS)

# A worker takes a file at a time, whose tests share what they have started.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(STAMP)
	FEDNEG_ALL_TESTS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder $(ARGS)

test-newest: $(NEWEST)/.installed
	$(NEWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(SEAM) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy does not follow fedneg's path: it sees the package as a wheel has it.
	rm -rf .mypy_stage && mkdir -p .mypy_stage/fedneg
	ln -s $(CURDIR)/fedneg/* $(CURDIR)/strategies $(CURDIR)/clients .mypy_stage/fedneg/
	cd .mypy_stage && ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache
	cd .mypy_stage && ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache ../examples/*.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Where the README's pictures and pages can be read, and the account that publishes.
hub: $(STAMP)
	@test -n '$(AT)' || { echo 'make hub AT=https://HOST/OWNER/fedneg/main ARGS="--publisher YOU"'; exit 2; }
	$(BIN)/python docs/flower_hub.py '$(AT)' $(ARGS)
	cd dist && ../$(BIN)/flwr build --app hub/fedneg

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run $(ARGS)

bench-capacity: $(STAMP)
	$(BIN)/python -m benchmarks.capacity $(ARGS)

# What is in benchmarks/judge.csv and judge_power.csv stays; ARGS=--anew starts over.
bench-judge: $(STAMP)
	$(BIN)/python -m benchmarks.judge $(ARGS)
	$(BIN)/python -m benchmarks.judge_power $(ARGS)

clean:
	rm -rf $(VENV) $(NEWEST) .venv-pfl .mypy_stage build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
