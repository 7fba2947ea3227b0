# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check setup bench clean

demo: setup  ## Greedy InfoMax on the embedded corpus, then what each depth knows: vowel, syllable, speaker
	$(BIN)/infomax train gim-syllables
	$(BIN)/infomax probe vowel,syllable,speaker --baseline mfcc

test: setup check  ## everything that CI checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto  # the models are tiny: a test a core, not threads

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

bench: setup  ## side by side: start-up, crops, the step, its cost, Deep InfoMax, AMDIM, the probe; an hour on a quiet machine
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/crops.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/cost.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/dim.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/amdim.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/probe.py

clean:
	rm -rf $(VENV) build dist
