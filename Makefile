# make demo: set up and run the default experiment.   make test: set up and run the tests.   Needs Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUTSIDE := $(PATH)
export PATH := $(abspath $(BIN)):$(PATH)

STUDIES := $(notdir $(basename $(wildcard studies/*.yaml)))
.PHONY: demo repository test test-slow lint params check zoo zoo-fashion zoo-fashion-32 zoo-text $(STUDIES)
.DEFAULT_GOAL := demo

demo: repository $(BIN)/.installed
	dvc repro
	@echo; cat reports/run/results.txt; echo; echo "The whole page, for a browser: reports/index.html"

# Of an archive that was downloaded there is none.
repository:
	@test -e .git || { echo "error: DVC needs a git repository, and this folder is none; git clone it, or git init"; exit 1; }

# One process a core; a file's tests stay in one, where they share what is made for the file.
test: $(BIN)/.installed
	pytest -n auto --dist loadfile

test-slow: $(BIN)/.installed
	pytest -m slow

lint: $(BIN)/.installed
	ruff check .
	ruff format --check .
	mypy

# params.yaml as `dvc exp run` composes it, e.g. make params OVERRIDES="N=8 p=0.3"
params: $(BIN)/.installed
	python conf/compose.py $(OVERRIDES)

# What an experiment needs and what it will cost, e.g. make check EXPERIMENT=cifar10; exit status 1 if something lacks.
EXPERIMENT ?= digits
check: $(BIN)/.installed
	@python conf/check.py experiment=$(EXPERIMENT) $(OVERRIDES)

# The studies over several training seeds, as queued DVC experiments; resumable (python -m studies.run --help).
$(STUDIES): $(BIN)/.installed
	python -m studies.run $@

# Train the shipped models again (about 40 minutes on one core). One thread, so that the bytes are the same everywhere.
zoo: $(BIN)/.installed
	OMP_NUM_THREADS=1 python zoo/train_features.py zoo/digits-features
	OMP_NUM_THREADS=1 python zoo/train_ddpm.py zoo/digits-ddpm
	OMP_NUM_THREADS=1 python zoo/convergence.py zoo/digits-ddpm

# The same for Fashion-MNIST, whose images are Debian's package dataset-fashion-mnist (about 70 minutes on one core).
zoo-fashion: $(BIN)/.installed
	OMP_NUM_THREADS=1 python zoo/train_features.py zoo/fashion-mnist-16-features
	OMP_NUM_THREADS=1 python zoo/train_ddpm.py zoo/fashion-mnist-16-ddpm
	OMP_NUM_THREADS=1 python zoo/convergence.py zoo/fashion-mnist-16-ddpm
	OMP_NUM_THREADS=1 python zoo/snapshot.py zoo/fashion-mnist-16-ddpm-early

# And at 32×32: the extractor takes 20 minutes on one core, the base needs a GPU.
zoo-fashion-32: $(BIN)/.installed
	python zoo/train_features.py zoo/fashion-mnist-features
	python zoo/train_ddpm.py zoo/fashion-mnist-ddpm
	python zoo/convergence.py zoo/fashion-mnist-ddpm

# The text-to-image pipeline of the digits and two CLIP models, for search and measure (about 50 minutes on one core).
zoo-text: $(BIN)/.installed
	OMP_NUM_THREADS=1 python zoo/train_clip.py zoo/digits-clip
	OMP_NUM_THREADS=1 python zoo/train_clip.py zoo/digits-clip-vit
	OMP_NUM_THREADS=1 python zoo/train_sd.py zoo/digits-sd

# PyPI's torchvision is built for CUDA. Beside a CPU build of torch its compiled operators, which nothing here calls, do
# not load, and the module that describes them stops every import of it: an empty one takes that module's place then.
NO_OPERATORS := import sys, types; sys.modules["torchvision._meta_registrations"] = types.ModuleType("no_operators")
SITE := import site; print(site.getsitepackages()[0])

# A venv of an older Python, or of one that is gone, is made anew; what is no venv is never cleared.
RECENT := import sys; sys.exit(sys.version_info < (3, 11))

$(BIN)/.installed: pyproject.toml constraints.txt
	@PATH="$(OUTSIDE)"; $(PYTHON) -c '$(RECENT)' || { \
	  echo "error: Python 3.11 or newer is needed, PYTHON is $(PYTHON), $$($(PYTHON) --version 2>&1); make PYTHON=python3.12"; \
	  exit 1; }
	@echo "$(PYTHON) -m venv $(VENV)"
	@PATH="$(OUTSIDE)"; $(PYTHON) -m venv $(VENV) \
	  $$(test ! -f $(VENV)/pyvenv.cfg || $(BIN)/python -c '$(RECENT)' 2>/dev/null || echo --clear)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@file="$$($(BIN)/python -c '$(SITE)')/torchvision_no_operators.pth"; rm -f "$$file"; \
	  if $(BIN)/python -c "import torchvision" 2>&1 | grep -q "operator torchvision::"; then \
	    echo '$(NO_OPERATORS)' > "$$file"; $(BIN)/python -c "import torchvision"; \
	  fi
	@touch $@
