# `make demo` and `make test` do all set-up themselves: Python >= 3.11, make and git are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/nas-zoo-is-installed
# Tests run in so many processes, a test file in one of them.
JOBS ?= 2

OLDEST := .venv-oldest

.PHONY: demo test test-fast test-avx2 test-oldest test-interop test-wheel docs lint timm-contract clean help
.DEFAULT_GOAL := help

help:  ## what there is to make
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "nas-zoo needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (make PYTHON=python3.12 ...)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)  ## search, retrain, export, predict and write two pages on handwritten digits (under 3 minutes of 2 cores)
	$(BIN)/nas-zoo demo --out runs/demo --overwrite

# CI (.ci/run) is to end within 60 minutes of two cores; each part says how many of them it may take.
test: $(READY)  ## the whole test suite (20 to 40 of CI's 60 minutes)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

# Files whose tests take little each and long together; `make test` has them.
LONG := tests/test_interop.py tests/benchmarks/test_public_weights.py tests/models/test_cpu_kernels.py \
  tests/models/test_key_schemes.py tests/models/test_results.py tests/runs/test_distributed.py \
  tests/search/test_api.py tests/search/test_extending.py tests/search/test_host.py tests/train/test_finetune.py \
  tests/train/test_train.py $(patsubst %,tests/export/test_%.py,to_hub gpu_inference weights_of_others bench draw \
  export page variants deliver)

test-fast: $(READY)  ## without the tests that take more than a second each, and without some files of many (90 s)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m 'not slow' $(addprefix --ignore=,$(LONG))

# Files whose operations have kernels of their own in the CPU library.
KERNELS := tests/models/test_cpu_kernels.py tests/models/test_operations.py \
  tests/search/test_mixed_sum.py tests/search/test_supernet.py tests/search/test_pc_darts.py

test-avx2: $(READY)  ## the tests of operations and supernet on the kernels of CPUs without AVX-512 (3 of CI's minutes)
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(KERNELS)

# What touches most of what other packages offer: torch, timm's registry, drawings, settings files, ONNX Runtime.
QUICK := tests/models/test_operations.py tests/models/test_layout.py tests/runs/test_settings.py \
  tests/search/test_edas.py tests/export/test_strides.py tests/export/test_draw.py tests/test_import.py

test-oldest:  ## a quick part with the lowest versions that pyproject.toml allows (6 of CI's minutes)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python tests/oldest.py > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(OLDEST)/oldest.txt --editable . pytest pytest-timeout pytest-xdist hypothesis
	@# old versions warn of each other
	$(OLDEST)/bin/python -m pytest -q -n $(JOBS) --dist loadfile -m 'not slow' -W default $(QUICK)

test-wheel: $(READY)  ## wheel and source archive built, the wheel installed, the commands tested on it (4 of CI's minutes)
	$(BIN)/python -m tests.wheel -n $(JOBS) --dist loadfile

lint: $(READY)  ## ruff and mypy (4 of CI's minutes, with the installation)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy nas_zoo benchmarks tests

# ONNX Runtime for browsers, from npm
ORT_WEB := $(VENV)/onnxruntime-web

test-interop: $(READY)  ## our files in onnxslim, OpenVINO, coremltools, transformers, a browser (installs them; 8 of CI's minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[interop]'
	test -d $(ORT_WEB) || $(BIN)/python tests/fetch_ort_web.py $(ORT_WEB)
	NAS_ZOO_INTEROP=1 NAS_ZOO_ORT_WEB=$(ORT_WEB) $(BIN)/python -m pytest -q -n $(JOBS) -m 'not slow' tests/test_interop.py tests/export/test_page.py

# -W: a broken link, a picture that is missing, a heading that is not there end the build.
docs: $(READY)  ## these pages as a site, in build/docs (1 of CI's minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx -q -E -W --keep-going docs build/docs

timm-contract: $(READY)  ## timm's own model tests on our models (downloads timm's source distribution)
	$(BIN)/python tests/timm_contract.py

clean:  ## removes what was built, never what was found
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
