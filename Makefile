# Everyday commands. Each target sets up the environment first.
# Settings go on the command line: make pretrain DATA=recordings CONFIG=axlstm_small

PYTHON  ?= python3
CONFIG  ?= axlstm_tiny
RUN     ?= $(if $(DATA),runs/pretrain,runs/miniature/pretrain)/$(CONFIG)
# SYSTEMS and MODULE (one additional module) are earlier names.
MODULES ?= $(or $(SYSTEMS),naive random axlstm_tiny) $(MODULE)
ENGINE  ?= heareval
SEEDS   ?= $(if $(TASKS_DIR),10,3)
OUT     ?= runs/eval
TABLE   ?= table3
RUNS    ?= runs/ablations/runs
PROCESSES ?= 2

BIN   := .venv/bin
READY := .venv/.ready

# A single process packs the audio itself; several need it packed beforehand. A run that has been
# started keeps its pack.
ifdef NPROC
PRETRAIN = data="$1"; if [ ! -e "$$data/pack.json" ]; then data="$(RUN)/pack"; \
    { [ -e "$(RUN)/config.json" ] && [ -e "$$data/pack.json" ]; } || \
    $(BIN)/axlstm pack "$1" "$$data" || exit; fi; \
    $(BIN)/torchrun --standalone --nproc-per-node $(NPROC) -m -- hear_axlstm \
    pretrain "$$data" --model $(CONFIG) --run "$(RUN)"
else
PRETRAIN = $(BIN)/axlstm pretrain "$1" --model $(CONFIG) --run "$(RUN)"
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup validate pretrain ablations table2 table3 table4 table5 eval-all test test-slow test-integrations test-portable compile-strict sanitize lint format docs bench bench-gpu clean

help: ## Print this list
	@echo "make TARGET [SETTING=value ...]"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "An active virtualenv or conda environment stays untouched: everything goes into ./.venv."

setup: $(READY) ## Make .venv and install everything [PYTHON=python3.11]
	@echo "Ready: $(BIN)/axlstm and $(BIN)/python. Next: make test, or make eval-all"

validate: $(READY) ## Check all six presets with the official hear-validator
	@$(BIN)/hear-validator hear_axlstm
	@$(BIN)/hear-validator hear_axlstm.mean_std
	@for preset in $$($(BIN)/python -c "from hear_axlstm.config import PRESETS; print(*PRESETS)"); do \
	    echo "--- $$preset"; $(BIN)/hear-validator hear_axlstm -m $$preset.random || exit 1; done
	@echo "The shipped weights and every preset (with random weights) follow the HEAR API. Next: make eval-all"

pretrain: $(READY) ## Pretrain on DATA=folder [CONFIG= RUN= EPOCHS= BATCH= NPROC=processes]; without DATA, two minutes on generated audio
ifdef DATA
	@$(call PRETRAIN,$(DATA)) \
	    $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH),--batch-size $(BATCH))
else
	@$(BIN)/python -m hearbench.synthetic corpus --out runs/miniature/corpus
	@$(call PRETRAIN,runs/miniature/corpus) \
	    --epochs $(or $(EPOCHS),4) --batch-size $(or $(BATCH),16) --lr 1e-3
endif
	@echo "Weights and log: $(RUN). Next: make eval-all MODULES='naive hear_axlstm@$(RUN)/model.safetensors'"

ablations: OUT = $(if $(DATA),runs/ablations,runs/miniature/ablations)
ablations: $(READY) ## Train and score the rows of TABLE=table2|table3|table4|table5 [DATA= EPOCHS= BATCH= LR= TRAININGS= TASKS_DIR= TASKS= SEEDS= ENGINE= JOBS= OUT=]
	@PYTHONPATH=eval $(BIN)/python -m paper ablations $(if $(DATA),"$(DATA)") --table $(TABLE) --seeds $(SEEDS) --engine $(ENGINE) $(if $(JOBS),--jobs $(JOBS)) \
	    --out "$(OUT)" $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH),--batch-size $(BATCH)) \
	    $(if $(LR),--lr $(LR)) $(if $(TRAININGS),--trainings $(TRAININGS)) $(if $(TASKS_DIR),--tasks-dir "$(TASKS_DIR)") $(if $(TASKS),--tasks $(TASKS))

table2: ## One of the paper's tables (also table3, table4, table5) from finished training RUNS=, or table2 from published checkpoints WEIGHTS=folder|published [TASKS_DIR= TASKS= SEEDS= ENGINE= JOBS= OUT=]
table2 table3 table4 table5: OUT = runs/tables
table2 table3 table4 table5: $(READY)
	@PYTHONPATH=eval $(BIN)/python -m paper $(if $(and $(WEIGHTS),$(filter table2,$@)),rerun --weights "$(WEIGHTS)",tables $@ --runs "$(RUNS)") --seeds $(SEEDS) --out "$(OUT)" --engine $(ENGINE) $(if $(JOBS),--jobs $(JOBS)) \
	    $(if $(TASKS_DIR),--tasks-dir "$(TASKS_DIR)") $(if $(TASKS),--tasks $(TASKS))

eval-all: $(READY) ## Score the MODULES on ten generated tasks, or on TASKS_DIR= [TASKS= SEEDS= ENGINE=fast BACKEND= JOBS= OUT=]
	@$(BIN)/hearbench run --systems $(MODULES) --seeds $(SEEDS) --out "$(OUT)" \
	    --engine $(ENGINE) $(if $(BACKEND),--backend $(BACKEND)) $(if $(JOBS),--jobs $(JOBS)) \
	    $(if $(TASKS_DIR),--tasks-dir "$(TASKS_DIR)") $(if $(TASKS),--tasks $(TASKS))

test: $(READY) ## Run the tests, without the slow ones [PROCESSES=2]
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n $(PROCESSES) --dist loadfile
	@echo "Tests passed. Next: make test-slow, or make eval-all"

test-slow: $(READY) ## Run the slow tests [HEAR_AXLSTM_DATA=folder for those on real audio]
	@$(BIN)/python -m pytest -q -m slow
	@echo "Slow tests passed."

test-integrations: $(READY) ## Install mteb and X-ARES, and run the tests of the integrations
	@$(PIP) --no-warn-conflicts -c constraints.txt -e ".[sklearn,transformers,mteb]"
	@$(PIP) --no-deps -c constraints.txt xares loguru # without torchaudio, which the checker does not need
	@$(BIN)/python -m pytest -q tests/integrations tests/hearbench/integrations
	@$(BIN)/python -m pytest -q tests/test_docs.py -k "integrations.md or systems.md"
	@echo "The integrations work."

KERNELS := $(wildcard hear_axlstm/ops/csrc/*.cpp)
LANGUAGE := -std=c++17 -fPIC -fopenmp-simd -pthread
# Copy the package and its tests to build/$(1), and compile its kernels with the options $(2)
define build-copy
@rm -rf build/$(1) && mkdir -p build/$(1)
@cp -r hear_axlstm tests pyproject.toml build/$(1)
@rm -f build/$(1)/hear_axlstm/ops/_cpu*
@$(CXX) -w $(LANGUAGE) $(2) -shared $(KERNELS) -o build/$(1)/hear_axlstm/ops/_cpu.so
endef

NUMERIC := tests/audio/test_mel.py tests/models tests/ops tests/embed
RUN_NUMERIC := "$(abspath $(BIN))/python" -m pytest -q -m "not slow" -p no:cacheprovider $(NUMERIC)
# Settings that make PyTorch, oneDNN and MKL compute as on a processor without AVX-512 or vectors
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
PLAIN := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2

test-portable: $(READY) ## Run the numeric tests on one thread, with AVX2, without vectors, and without the kernels
	OMP_NUM_THREADS=1 $(RUN_NUMERIC)
	HEAR_AXLSTM_BACKEND=torch $(RUN_NUMERIC)
	$(call build-copy,avx2,-O3 -DBEST_ISA=AVX2)
	cd build/avx2 && $(AVX2) $(RUN_NUMERIC)
	$(call build-copy,plain,-O3 -DBEST_ISA=PLAIN)
	cd build/plain && $(PLAIN) $(RUN_NUMERIC)
	@echo "The numeric tests pass in all four ways."

SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all
ASAN := libasan.so
ifneq ($(findstring clang,$(CXX)),)
SANITIZERS += -shared-libasan
ASAN := libclang_rt.asan-$(shell uname -m).so
endif

compile-strict: ## Compile the C++ with warnings treated as errors [CXX=clang++]
	@for file in $(KERNELS); do $(CXX) -O3 $(LANGUAGE) -Wall -Wextra -Werror -c $$file -o /dev/null || exit 1; done
	@echo "$(CXX) has no warnings."

sanitize: $(READY) ## Run the C++ tests under AddressSanitizer and UBSan [CXX=clang++]
	$(call build-copy,sanitized,-O1 -g $(SANITIZERS))
	@cd build/sanitized && ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$($(CXX) -print-file-name=$(ASAN))" \
	    "$(abspath $(BIN))/python" -m pytest -q --capture=sys -p no:cacheprovider tests/ops/test_cpu_mixer.py tests/ops/test_cpu_block.py tests/ops/test_packed_linear.py
	@echo "The sanitizers found nothing."

lint: $(READY) ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@echo "Style and types are clean."

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY) ## Build the documentation site in runs/site; warnings are errors
	@$(PIP) -c constraints.txt -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Site: runs/site/index.html"

bench: $(READY) ## Measure speed and memory on this machine
	@$(BIN)/python -m benchmarks

bench-gpu: OUT = runs/gpu$(if $(REHEARSAL),-rehearsal)
bench-gpu: $(READY) ## Check and measure an NVIDIA GPU in eight minutes, resumable [OUT= REHEARSAL=1 on the CPU]
	@$(BIN)/python -m benchmarks.gpu --out "$(OUT)" $(if $(REHEARSAL),--rehearsal --minutes 30)

clean: ## Remove caches and builds; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

# --- The environment -------------------------------------------------------------------------
# PYTHONPATH and --user/--target settings would put packages outside .venv, or make pip consider
# them installed. Mirrors, caches and proxies (other PIP_* settings) still apply.
PIP := env -u PYTHONPATH -u PYTHONHOME -u PIP_TARGET -u PIP_PREFIX PIP_USER=0 \
       $(BIN)/python -m pip install --quiet --disable-pip-version-check
# --no-warn-conflicts below: the official packages' pins are known to conflict.
STANDIN := eval/tensorflow_standin

# The pinned versions in constraints.txt exist from Python 3.11 on; the package itself runs on 3.10.
define CHECK_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit("make setup needs Python 3.11 or newer and {} is {}.{}: name another one, "
             "e.g. make setup PYTHON=python3.11".format(sys.executable, *sys.version_info[:2]))
endef
export CHECK_PYTHON

$(READY): setup.py $(wildcard hear_axlstm/ops/csrc/*.cpp hear_axlstm/ops/csrc/*.h) pyproject.toml eval/pyproject.toml constraints.txt eval/requirements-official.txt $(wildcard $(STANDIN)/*)
	@command -v "$(PYTHON)" >/dev/null || { echo "make setup: no $(PYTHON) here: name one, e.g. make setup PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c "$$CHECK_PYTHON"
	@$(BIN)/python -c "" 2>/dev/null || { echo "Making .venv with $$($(PYTHON) --version)"; env -u PYTHONPATH "$(PYTHON)" -m venv --clear .venv; }
	@$(BIN)/python -c "$$CHECK_PYTHON"
	@echo "[1/4] torch (the largest download: minutes on a slow line)"
	@$(PIP) -c constraints.txt torch
	@echo "[2/4] the official HEAR packages"
	@$(PIP) --no-deps -r eval/requirements-official.txt
	@echo "[3/4] hear_axlstm and what it needs"
	@$(PIP) --no-warn-conflicts -c constraints.txt -e ".[train,parquet,finetune,export,kernels,dev]" -e "./eval[heareval,huggingface]"
	@echo "[4/4] what lets the official packages run without TensorFlow (eval/tensorflow_standin)"
	@rm -rf $(STANDIN)/build  # of an earlier version
	@$(PIP) --force-reinstall --no-deps ./$(STANDIN)
	@touch $@
