# Every target makes the environment it needs, from any Python 3.11 to 3.13: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check e2e bench bench-rounds bench-memory bench-score bench-swaps bench-budget \
	bench-stragglers bench-poison bench-load bench-wire bench-gateway bench-quality lock clean

demo: $(VENV)/.ready  ## three machines learn together, and a table says what it was worth
	$(BIN)/flockwatch local --config configs/demo.yaml

test: $(VENV)/.ready  ## the tests that CI runs
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not e2e"

check: $(VENV)/.ready  ## style, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

e2e: $(VENV)/.ready  ## long tests on real data
	$(BIN)/python -m pytest -m e2e

bench: bench-rounds bench-memory bench-score bench-swaps bench-budget \
	bench-stragglers bench-poison bench-load bench-wire bench-gateway bench-quality  ## what the README claims, measured again

bench-rounds bench-memory bench-score bench-swaps bench-budget bench-stragglers bench-poison bench-load bench-wire bench-gateway bench-quality: bench-%: $(VENV)/.ready
	$(BIN)/python -m benchmarks.$*

bench-score: $(VENV)/.peers
bench-swaps: export OPENBLAS_NUM_THREADS = 1  # as the command line sets it

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "flockwatch needs Python 3.11 to 3.13, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.peers: benchmarks/peers.lock $(VENV)/.ready  # detectors of others, to measure against
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/peers.lock
	touch $@

lock:  ## renew requirements.lock (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --no-strip-extras --upgrade -o requirements.lock
	uv pip compile benchmarks/peers.in --constraints requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --no-strip-extras --upgrade \
		-o benchmarks/peers.lock

clean:
	rm -rf $(VENV) build dist .*_cache
