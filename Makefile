# make demo and make test do everything from a bare checkout: the environment first, then the work.
# VENV may point anywhere; TFRS_SHARED names a folder of real data for the tests that want some.
VENV ?= .venv
PYTHON ?= python3
DEMO ?= demo
BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.ready

.PHONY: demo test lint clean

$(READY): setup.cfg setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $(READY)

# Simulated SEN12MS: records, a short training, report, SavedModel, and one prediction with it.
demo: $(READY)
	$(BIN)/python -m tfrecords_builder --dataset sen12ms --synthesize 240 --input $(DEMO)/data/sen12ms --output $(DEMO)/records
	$(BIN)/python -m tfrecords_builder verify $(DEMO)/records
	$(BIN)/python -m tfrecords_builder show $(DEMO)/records
	$(BIN)/python -m tfrecords_builder stats $(DEMO)/records
	$(BIN)/python -m experiments.classify --flagfile=experiments/configs/demo.flags --records=$(DEMO)/records --run_dir=$(DEMO)/run
	cat $(DEMO)/run/report.md
	cd $(DEMO)/data/sen12ms && patch=$$(ls -d ROIs*/s2_*/*.tif | head -1) && \
	$(BIN)/python -m experiments.predict --export ../../run/export --layout sen12ms \
	  --scene s2=$$patch,s1=$$(dirname $$(dirname $$patch))/$$(basename $$(dirname $$patch) | sed s/s2_/s1_/)/$$(basename $$patch | sed s/_s2_/_s1_/)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

test: lint
	$(BIN)/pytest -n auto --dist loadfile

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache .hypothesis
