# make demo and make test do everything from a bare checkout: the environment first, then the work.
# VENV may point anywhere; TFRS_SHARED names a folder of real data for the tests that want some.
VENV ?= .venv
PYTHON ?= python3
DEMO ?= demo
BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.ready

.PHONY: demo demo-segment test lint clean

$(READY): setup.cfg setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $(READY)

# Simulated SEN12MS: records, a short training, report, SavedModel, and one prediction with it, on a patch of the test split.
PATCH := $(DEMO)/data/sen12ms/ROIs1970_fall
demo: $(READY)
	$(BIN)/python -m tfrecords_builder --dataset sen12ms --synthesize 240 --input $(DEMO)/data/sen12ms --output $(DEMO)/records
	$(BIN)/python -m tfrecords_builder verify $(DEMO)/records
	$(BIN)/python -m tfrecords_builder show $(DEMO)/records
	$(BIN)/python -m tfrecords_builder stats $(DEMO)/records
	$(BIN)/python -m experiments.classify --flagfile=experiments/configs/demo.flags --records=$(DEMO)/records --run_dir=$(DEMO)/run
	cat $(DEMO)/run/report.md
	$(BIN)/python -m experiments.predict --export $(DEMO)/run/export --layout sen12ms \
	  --scene s2=$(PATCH)/s2_141/ROIs1970_fall_s2_141_p1.tif,s1=$(PATCH)/s1_141/ROIs1970_fall_s1_141_p1.tif

# Simulated MultiSenGE: both U-Nets of Wenger et al. 2022, and the map of one patch.
SEGMENT := $(DEMO)/segment
demo-segment: $(READY)
	$(BIN)/python -m tfrecords_builder --dataset multisenge --synthesize 120 --input $(SEGMENT)/data --output $(SEGMENT)/records
	for input in irrg irrg_index; do \
	  $(BIN)/python -m experiments.segment --flagfile=experiments/configs/demo_segment.flags --input=$$input \
	    --records=$(SEGMENT)/records --run_dir=$(SEGMENT)/$$input || exit; done
	cat $(SEGMENT)/irrg/report.md $(SEGMENT)/irrg_index/report.md
	$(BIN)/python -m experiments.predict --export $(SEGMENT)/irrg/export --layout multisenge \
	  --scene s2=$$(ls $(SEGMENT)/data/s2/31UGQ_*.tif | head -n 1) --output $(SEGMENT)/map.tif

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

test: lint
	$(BIN)/pytest -n auto --dist loadfile

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache .hypothesis
