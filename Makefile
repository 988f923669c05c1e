# Everything people type. `make` alone runs the main job on the embedded default: dataset, train, eval, study.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: all dataset train eval study experiment sweep report prior test test-fast proofs lint bench benchgpu clean help
.DEFAULT_GOAL := all

SIZE      ?= 2k        # training samples; accepts 50k
SOURCE    ?= tabletop  # tabletop, folder:PATH, webdataset:URL, parquet:PATH, hub:NAME
CONDITION ?= canny     # condition map
MODEL     ?= tabletop  # prior: tabletop, a diffusers folder, or a hub name
STEPS     ?=           # optimizer steps; empty: the preset's
SEED      ?= 1         # of data, training and generation
WORKERS   ?= 2         # local Dask processes
PROCESSES ?=           # processes that train the prior together; empty: one
SCHEDULER ?=           # running Dask scheduler, e.g. tcp://host:8786
IMAGES    ?= 128       # held-out samples to generate and score
ITEMS     ?= 40        # pairs a user-study sheet shows, in blocks of three times as many
SIZES     ?=           # subsets of an experiment, e.g. 4,64,1k; empty: the experiment's
SEEDS     ?=           # training seeds of an experiment; empty: the experiment's
ARGS      ?=           # further options of the stage, e.g. ARGS="--image-size 512"
DIFFUSERS ?=           # diffusers' train_controlnet.py, to be measured against by make bench
NAME      ?=           # name of dataset, run and study; empty: made from the options. Or of the experiment
PYTHON    ?= python3

# make keeps the blanks before a comment; names must not have them
override SIZE := $(strip $(SIZE))
override SOURCE := $(strip $(SOURCE))
override CONDITION := $(strip $(CONDITION))
override MODEL := $(strip $(MODEL))
override STEPS := $(strip $(STEPS))
override SEED := $(strip $(SEED))
override WORKERS := $(strip $(WORKERS))
override SCHEDULER := $(strip $(SCHEDULER))
override IMAGES := $(strip $(IMAGES))
override ITEMS := $(strip $(ITEMS))
override SIZES := $(strip $(SIZES))
override SEEDS := $(strip $(SEEDS))
override ARGS := $(strip $(ARGS))
override NAME := $(strip $(NAME))

export UV_PYTHON_DOWNLOADS := never
unexport PYTHONDONTWRITEBYTECODE
BIN   := .venv/bin
READY := .venv/.ready
# a process a core, hence one thread each, in what the tests start too
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
q      = '$(subst ','\'',$(1))'
# the names that the stages themselves would make; asked for where they are needed
NAMES  = $(PYTHON) -m pipeline.contract.names --source $(call q,$(SOURCE)) --condition $(CONDITION) --size $(call q,$(SIZE)) --seed $(SEED)
DATA   = $(or $(NAME),$(shell $(NAMES)))
RUN    = $(or $(NAME),$(shell $(NAMES) --model $(call q,$(MODEL)) $(if $(STEPS),--steps $(STEPS))))

all: dataset train eval study ## the main job: dataset, train, eval, study (default)

$(READY): requirements.lock pyproject.toml
	@echo "== installing into .venv"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

dataset: $(READY) ## raw images -> data/NAME (SOURCE, SIZE, CONDITION, SEED, WORKERS, SCHEDULER)
	@echo "== dataset"
	$(BIN)/cnlab-dataset build --source $(call q,$(SOURCE)) --size $(SIZE) --condition $(CONDITION) --seed $(SEED) \
	  --workers $(WORKERS) --scheduler "$(SCHEDULER)" --name $(call q,$(DATA)) $(ARGS)

train: $(READY) ## data/NAME -> runs/NAME (MODEL, STEPS, SEED)
	@echo "== train"
	$(BIN)/cnlab-train run --dataset $(call q,data/$(DATA)) --model $(call q,$(MODEL)) --seed $(SEED) --name $(call q,$(RUN)) \
	  $(if $(STEPS),--steps $(STEPS)) $(ARGS)

eval: $(READY) ## runs/NAME -> results/results.parquet, report.html (IMAGES)
	@echo "== eval"
	$(BIN)/cnlab-eval --run $(call q,runs/$(RUN)) --images $(IMAGES) $(ARGS)

experiment: $(READY) ## cells trained and scored -> results/experiments/NAME (NAME, SIZES, SEEDS, STEPS, SCHEDULER)
	@echo "== experiment $(or $(NAME),size)"
	$(BIN)/cnlab-eval experiment $(or $(NAME),size) --source $(call q,$(SOURCE)) --condition $(CONDITION) --model $(call q,$(MODEL)) \
	  --scheduler "$(SCHEDULER)" $(if $(SIZES),--sizes $(SIZES)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(STEPS),--steps $(STEPS)) $(ARGS)

sweep: ## how many images? the experiment on dataset sizes
	$(MAKE) --no-print-directory experiment NAME=size

report: $(READY) ## results/report.html from what results/ holds
	$(BIN)/cnlab-eval report

# as many blocks as the evaluated samples fill, at most three
POOL = $(shell n=$$(( $(IMAGES) / $(ITEMS) )); echo $$(( (n > 3 ? 3 : n < 1 ? 1 : n) * $(ITEMS) )))

study: $(READY) ## blinded sheets, ControlNet against the prior alone -> studies/NAME (ITEMS)
	@echo "== study"
	$(BIN)/cnlab-study make --subjects $(call q,$(RUN)) $(call q,$(RUN)/prior) --dataset $(call q,data/$(DATA)) --out $(call q,studies/$(RUN)) \
	  --items.per-sheet $(ITEMS) --items.pool $(POOL)

prior: $(READY) ## train the shipped tabletop models from nothing (hours; PROCESSES=2: two that share each batch)
	$(if $(strip $(PROCESSES)),$(BIN)/torchrun --nproc-per-node $(strip $(PROCESSES)),$(BIN)/python) -m trainer.prior
	$(BIN)/python -m evaluation.prior.quality

test: $(READY) ## the test suite
	$(PYTEST) -m "not proof"

test-fast: $(READY) ## the quick half of it, two minutes
	$(PYTEST) -m "not proof and not slow"

proofs: $(READY) ## what proves at length: kills, simulations, memory, coverage
	$(PYTEST) -m proof

lint: $(READY) ## formatter, linter, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## side-by-side timings, appended to benchmarks/RESULTS.md (DIFFUSERS: its train_controlnet.py)
	$(BIN)/python -m benchmarks.tabletop
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.convergence
	$(if $(DIFFUSERS),$(BIN)/python -m benchmarks.training $(DIFFUSERS))

benchgpu: $(READY) ## everything that is asked of a GPU, appended likewise (DIFFUSERS; ARGS=--dry-run on a CPU)
	$(BIN)/python -m benchmarks.gpu $(if $(DIFFUSERS),--script $(DIFFUSERS)) $(ARGS)

clean: ## remove data, runs, results, studies (not .venv)
	rm -rf data runs results studies

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo; echo "Variables:"; grep -hE '^[A-Z]+ +\?=' $(MAKEFILE_LIST) | sed -E 's/ *\?= */\t/; s/^/  /' | expand -t 14
