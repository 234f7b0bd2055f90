# What a person does with this project. Every target installs what it needs first.

export ANALYTICS_HOME ?= $(CURDIR)/data
PYTHON ?= python3
UV := $(shell command -v uv || echo .tools/bin/uv)
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url
# A dot a second while the rest of the recipe works.
DOTS := while printf .; do sleep 1; done & dots=$$!; trap 'kill $$dots; echo' EXIT; trap 'exit 130' INT TERM;
# A shell inside another environment must not draw the installation there.
unexport VIRTUAL_ENV
# Tests start many processes, and each would compile all code again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-kubernetes test-ray lint dev bench bench-faults bench-tuning bench-own-runs lock

demo: .venv/.installed  # the whole way on the bundled real data
	@.venv/bin/analytics demo

test: .venv/.installed  # the test suite without what takes long; three processes, since some wait for others
	@.venv/bin/python -m pytest -n 3 --dist worksteal

test-kubernetes: .venv-clusters/.installed  # steps in pods, as dagster-k8s asks the API of Kubernetes for them
	@.venv-clusters/bin/python -m pytest cluster_tests/test_kubernetes.py

test-ray: .venv-clusters/.installed  # steps as jobs of a Ray cluster of two nodes on this machine
	@.venv-clusters/bin/python -m pytest cluster_tests/test_ray.py

lint: .venv/.installed  # style and types
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

dev: .venv/.installed  # Dagster's UI on http://127.0.0.1:3000, with its daemon
	@.venv/bin/analytics dev

bench: .venv/.installed .venv-bench/.installed  # the measurements, as ratios in one run
	@.venv/bin/python -m benchmarks

bench-faults: .venv/.installed  # what is too long for every change: random kills, the faults of a day, with more rounds
	@FAULT_ROUNDS=3 .venv/bin/python -m pytest -n 3 --dist worksteal -m "long or not long"

DATA ?= ../shared/data
bench-tuning: .venv/.installed  # forecasts, scaling, memory and configs on the traces of a folder: make bench-tuning DATA=folder
	@.venv/bin/python -m benchmarks.tuning --data $(DATA)

bench-own-runs: .venv/.installed  # this pipeline under many limits and sizes, predicted and measured; goes on where it was stopped
	@.venv/bin/python -m benchmarks own-runs --work $(ANALYTICS_HOME)/bench/own-runs

lock: $(UV)  # resolve the dependencies again
	@$(COMPILE) --group dev -o requirements.lock pyproject.toml
	@$(COMPILE) --group bench -o benchmarks/requirements.lock
	@$(COMPILE) --group dev --all-extras --constraints requirements.lock -o cluster_tests/requirements.lock pyproject.toml

.venv/.installed: requirements.lock pyproject.toml | $(UV)
	@printf "installing into .venv (1.4 GB, once) "
	@test -x .venv/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@$(DOTS) $(UV) pip sync --quiet --compile-bytecode --python .venv/bin/python requirements.lock
	@$(UV) pip install --quiet --python .venv/bin/python --no-deps -e .
	@touch $@

.venv-bench/.installed: benchmarks/requirements.lock | $(UV)
	@printf "installing the peers into .venv-bench (1 GB, once) "
	@test -x .venv-bench/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv-bench
	@$(DOTS) $(UV) pip sync --quiet --python .venv-bench/bin/python benchmarks/requirements.lock
	@touch $@

.venv-clusters/.installed: cluster_tests/requirements.lock pyproject.toml | $(UV)
	@printf "installing with Kubernetes and Ray into .venv-clusters (1.7 GB, once) "
	@test -x .venv-clusters/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv-clusters
	@$(DOTS) $(UV) pip sync --quiet --python .venv-clusters/bin/python cluster_tests/requirements.lock
	@$(UV) pip install --quiet --python .venv-clusters/bin/python --no-deps -e .
	@touch $@

.tools/bin/uv:
	@printf "fetching uv "
	@$(DOTS) $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tools uv || \
		{ echo "uv is missing, and so is pip to fetch it: install one of them (Debian: apt install python3-pip)"; exit 1; }
