# demo · test · lint · bench: what the README and CI call.
# PYTHON chooses the interpreter (3.10 or newer). The environment is made once, from pinned versions.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
BUNDLE := $(RUN)/digits.edge
CHECKPOINT := $(RUN)/checkpoint
# Seven tenths of the recipe's clips. The two networks learn side by side, each on a core of its own.
TRAIN := OMP_NUM_THREADS=1 $(BIN)/edge-cnnlstm train occluded-digits --set data.clips=1344 --set data.held_out=200
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint bench clean

demo: $(VENV)/demo
	rm -rf $(RUN) && mkdir -p $(RUN)
	$(TRAIN) --set model.layers=0 --output $(RUN)/cnn-only 2> $(RUN)/cnn-only.log & without=$$!; \
	$(TRAIN) --output $(RUN)/checkpoint && wait $$without || { kill $$without 2>/dev/null; cat $(RUN)/cnn-only.log; exit 1; }
	$(BIN)/edge-cnnlstm evaluate $(RUN)/checkpoint $(RUN)/cnn-only --output $(RUN)/evaluation.json
	$(BIN)/python -m export $(RUN)/checkpoint --output $(RUN)/digits.edge
	$(BIN)/edge-cnnlstm sample-video $(RUN)/unseen.mp4
	$(BIN)/edge-cnnlstm run $(RUN)/digits.edge --source $(RUN)/unseen.mp4 --rate 30 \
	    --predictions $(RUN)/predictions.jsonl --summary $(RUN)/stream.json
	$(BIN)/edge-cnnlstm report $(RUN)

# CI sets CI, and runs the slow ones too. Each process has a core, so torch needs no second thread.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(if $(CI),,-m "not slow") $(PYTEST)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# make bench BUNDLE=model.edge CHECKPOINT=folder; by default what `make demo` left.
bench: $(VENV)/bench $(BUNDLE)
	$(BIN)/python -m benchmarks bench $(BUNDLE) --checkpoint $(CHECKPOINT)

$(RUN)/digits.edge:
	$(MAKE) demo

clean:
	rm -rf $(VENV) build dist *.egg-info runs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: found $$($(PYTHON) --version), need Python 3.10 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: python3 cannot make virtual environments: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# torch first: whatever else asks for torch then finds it, and nothing pulls another build of it.
$(VENV)/torch: constraints.txt | $(BIN)/python
	@echo "Installing PyTorch (about 25 s to several minutes)"
	@$(INSTALL) torch
	@touch $@

$(VENV)/demo: pyproject.toml constraints.txt $(VENV)/torch
	@echo "Installing edge-cnnlstm with training, export and report"
	@$(INSTALL) --editable '.[export]'
	@touch $@

$(VENV)/dev: $(VENV)/demo
	@echo "Installing the development tools"
	@$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/bench: $(VENV)/demo
	@echo "Installing what is measured beside ours"
	@$(INSTALL) --editable '.[peers]'
	@touch $@
