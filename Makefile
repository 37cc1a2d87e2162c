# Every target makes the environment it needs, from any Python 3.11 to 3.13: `make demo`, `make test`.
PYTHON ?= python3
MINUTES ?= 60
VENV ?= .venv
BIN := $(VENV)/bin
FLOORS := client:87 common:97 server:90 flockwatch:75  # percent of lines, for `make coverage`

.PHONY: demo test soak check coverage matrix docs deploy-tools cluster e2e bench bench-rounds bench-memory bench-score \
	bench-swaps bench-budget bench-stragglers bench-poison bench-strategies bench-load bench-wire bench-gateway bench-quality bench-watch lock clean

demo: $(VENV)/.ready  ## three simulated machines train together, then score live streams
	$(BIN)/flockwatch local --config configs/demo.yaml

test: $(VENV)/.ready  ## the test suite; its long files come first, so that none of them runs alone at the end
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not e2e" tests/scenarios tests

check: $(VENV)/.ready  ## style, types, which package may import which, known vulnerabilities (build/sbom.json)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py
	tests/audit/run $(BIN)/python

coverage: $(VENV)/.ready  ## unit tests, and the smallest coverage that each package may have
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not e2e" --ignore tests/scenarios --ignore tests/cluster \
		--cov client --cov common --cov server --cov flockwatch --cov-report=
	@for floor in $(FLOORS); do echo "coverage of $${floor%:*}, at least $${floor#*:} %"; \
		$(BIN)/coverage report --include "$${floor%:*}/*" --skip-covered --sort cover \
		--fail-under "$${floor#*:}" || failed=1; done; test -z "$$failed"

matrix:  ## unit tests under the other supported Pythons, where they are installed or uv can install them
	tests/matrix/run 3.12 3.13

docs: $(VENV)-docs/.ready  ## the documentation site, in build/site; fails on a broken link or a load from another host
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict
	@echo "the site is in build/site/index.html"

deploy-tools: $(VENV)/.deploy  ## programs that check the compose file, Dockerfile and rules; without them make test skips those checks

cluster: $(VENV)/.ready  ## tests of the images and the demonstration cluster, on a Docker Engine where one can run
	tests/cluster/run

soak: $(VENV)/.ready  ## an hour of fuzzed messages, chaos and connections, with growth bounds: make soak MINUTES=10
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

e2e: $(VENV)/.ready  ## long tests: real data, and fleets in which processes, links and databases fail
	$(BIN)/python -m pytest -n 2 --dist loadfile -m e2e

bench: bench-rounds bench-memory bench-score bench-swaps bench-budget \
	bench-stragglers bench-poison bench-strategies bench-load bench-wire bench-gateway bench-quality bench-watch  ## all measurements of docs/benchmarks.md

bench-rounds bench-memory bench-score bench-swaps bench-budget bench-stragglers bench-poison bench-strategies bench-load bench-wire bench-gateway bench-quality bench-watch: bench-%: $(VENV)/.ready
	$(BIN)/python -m benchmarks.$*

bench-score: $(VENV)/.peers
bench-swaps: export OPENBLAS_NUM_THREADS = 1  # as the command line sets it

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "flockwatch needs Python 3.11 to 3.13, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)-docs/.ready: docs/requirements.lock
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.lock
	touch $@

$(VENV)/.deploy: deploy/tools.lock $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r deploy/tools.lock
	cd $(VENV) && if ! command -v promtool >/dev/null && command -v apt-get >/dev/null; then \
		apt-get download -qq prometheus && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb && \
		ln -sf ../prometheus/usr/bin/promtool bin/promtool || echo "no promtool: its checks are skipped"; fi
	touch $@

$(VENV)/.peers: benchmarks/peers.lock $(VENV)/.ready  # other detectors, for comparison
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/peers.lock
	touch $@

lock:  ## renew all lock files (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --no-strip-extras --upgrade -o requirements.lock
	uv pip compile benchmarks/peers.in --constraints requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --no-strip-extras --upgrade \
		-o benchmarks/peers.lock
	uv pip compile docs/requirements.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --no-strip-extras --upgrade -o docs/requirements.lock
	for part in "server pyproject.toml --extra postgres" "edge pyproject.toml --extra train" \
		"detector deploy/detector.in" "build deploy/build.in" "tools deploy/tools.in"; do set -- $$part; \
		name=$$1; shift; uv pip compile "$$@" --constraints requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--no-strip-extras --upgrade -o deploy/$$name.lock; done

clean:
	rm -rf $(VENV) $(VENV)-* build dist .*_cache
