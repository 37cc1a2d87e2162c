# Every target makes the environment it needs, from any Python 3.11 to 3.13: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check deploy-tools cluster e2e bench bench-rounds bench-memory bench-score \
	bench-swaps bench-budget bench-stragglers bench-poison bench-load bench-wire bench-gateway bench-quality lock clean

demo: $(VENV)/.ready  ## three machines learn together, and a table says what it was worth
	$(BIN)/flockwatch local --config configs/demo.yaml

test: $(VENV)/.ready  ## the tests that CI runs
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not e2e"

check: $(VENV)/.ready  ## style, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

deploy-tools: $(VENV)/.deploy  ## what checks compose file, Dockerfile and rules; make test skips those checks without

cluster: $(VENV)/.ready  ## the images and the demo cluster, on a real Docker Engine where there can be one
	tests/cluster/run

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

$(VENV)/.deploy: deploy/tools.lock $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r deploy/tools.lock
	cd $(VENV) && if ! command -v promtool >/dev/null && command -v apt-get >/dev/null; then \
		apt-get download -qq prometheus && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb && \
		ln -sf ../prometheus/usr/bin/promtool bin/promtool || echo "no promtool: its checks are skipped"; fi
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
	for part in "server pyproject.toml --extra postgres" "edge pyproject.toml --extra train" \
		"detector deploy/detector.in" "build deploy/build.in" "tools deploy/tools.in"; do set -- $$part; \
		name=$$1; shift; uv pip compile "$$@" --constraints requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--no-strip-extras --upgrade -o deploy/$$name.lock; done

clean:
	rm -rf $(VENV) build dist .*_cache
