# What a person types. `make setup` is called by the others when it is needed.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
CORES ?= 2
# Snakemake's lock outlives a killed Snakemake; under a lock that does not, it can be taken away.
FLOCK := flock --nonblock --conflict-exit-code 75 --no-fork
ALONE := $(shell (mkdir -p .state && $(FLOCK) .state/probe.lock true) 2>/dev/null && echo $(FLOCK) .state/demo.lock)
# A bar on a terminal, a line per job elsewhere.
PROGRESS := $(shell test -t 2 && echo --logger rich || echo --quiet rules reason host)
# Optional parts, each with a lock of its own beside that of the core.
EXTRAS := slurm kubernetes remotes server
# For what the recipes start; they themselves name $(BIN), as make 3.81 (macOS) looks there by its own.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Snakemake and uv keep files at home; where nothing can be written there, they lie here.
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
export XDG_CACHE_HOME ?= $(CURDIR)/.state/cache
endif
# Seconds a file; uv's own 60 are few on a busy machine.
export UV_COMPILE_BYTECODE_TIMEOUT ?= 600

.PHONY: setup demo demo-full test coverage test-slow test-faults test-mutants test-gpu test-robustbench test-slurm test-kubernetes test-mlflow-server audit lint format bench bench-gpu pictures scale image ui lock clean

setup: $(STAMP)

# The lock names every package by version and hash. uv installs it in under a minute; where uv is
# not installed, its own locked version goes into a folder of the environment first.
#   make setup GPU=no          without what only a GPU uses and PyTorch starts without: 1.3 of 6.5 GB
#   make setup TORCH_INDEX=URL PyTorch and torchvision from an index of CPU builds instead (untested)
RECENT := sys; sys.exit(sys.version_info < (3, 11))
UV_USED = $(or $(UV),$(VENV)/uv/bin/uv)
LOCK = $(if $(filter no,$(GPU)),$(VENV)/requirements.lock,requirements.lock)
# An environment names its folder in each program; one that was moved or copied is made anew.
# (One folder under two paths is the same.) Where another machine has it at another path, jobs there
# may be at work in it, and nobody here can tell.
MOVED := $(if $(filter .venv,$(VENV)),$(shell test -s $(STAMP) && ! test "$$(head -n 1 $(STAMP))/.venv" -ef .venv && echo yes))
THEIRS := $(if $(MOVED),$(shell sed -n 2p $(STAMP) | grep -vxF "$$(uname -n)"))
.PHONY: moved
$(STAMP): requirements.lock workflow/envs/uv.lock $(if $(MOVED),moved)
	@test -z "$(THEIRS)" || { echo "make: $(VENV): expected an environment of this machine, got one that $(THEIRS) has at \
	$$(head -n 1 $(STAMP)); if no job uses it there, remove $(VENV)" | tr -d '\t' >&2; exit 2; }
	@test -z "$(MOVED)" || { echo "$(VENV) is of another folder; it is made anew." && rm -rf $(VENV); }
	@echo "Installing the locked packages into $(VENV) ..."
	@$(BIN)/python -c 'import $(if $(UV),,pip; import )$(RECENT)' 2>/dev/null || { $(PYTHON) -c 'import $(RECENT)' 2>/dev/null || { \
		echo "make: expected Python 3.11 or later, got $$($(PYTHON) --version 2>&1); call make PYTHON=python3.12, say" >&2; exit 2; } \
		&& $(PYTHON) -m venv --clear $(VENV); }
	@test -n "$(UV)" || $(BIN)/python -m pip install -q --require-hashes --target $(VENV)/uv -r workflow/envs/uv.lock
	@test "$(GPU)" != no || awk '/^[a-z]/ {drop = /^(triton|nvidia-cusolver)==/} !drop' requirements.lock > $(LOCK)
	@$(UV_USED) pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes $(LOCK)
	@for extra in $$(sort -u $(ADDED) 2>/dev/null); do $(call extra,$$extra) || exit 2; done
	@test -z "$(TORCH_INDEX)" || $(UV_USED) pip install -q --python $(BIN)/python --reinstall-package torch \
		--reinstall-package torchvision --index-url "$(TORCH_INDEX)" torch torchvision
	@$(UV_USED) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@test -e .git || $(BIN)/dvc config --local core.no_scm true  # unpacked from an archive
	@{ pwd; uname -n; } > $(STAMP)
	@echo "Done. Next: \`make demo\` runs the whole pipeline on 8x8 digits in minutes; \`make test\` tests it."
	@echo "Or: source $(VENV)/bin/activate, then \`rwp --help\` and \`snakemake --cores 2 results/demo/table2.csv\`."

# e.g. `make extra-slurm`: what a cluster needs, into the same environment. It is noted, and installed
# again where a new lock takes all out that it does not name.
ADDED = $(VENV)/.extras
extra = $(UV_USED) pip install -q --python $(BIN)/python --require-hashes -r workflow/envs/$(1).lock
extra-%: setup
	@$(call extra,$*)
	@echo $* >> $(ADDED)

# The argument is the suite.
define build
	@mkdir -p .state
	@$(ALONE) sh -c 'snakemake --unlock >/dev/null 2>&1; snakemake --cores $(CORES) suite_$(1) $(PROGRESS)' \
		|| { test $$? -ne 75 || echo "make: a demo is at work here; wait for it" >&2; exit 2; }
	@$(BIN)/rwp table table2 --suite $(1) --show
	@echo "Report:  $$PWD/results/$(1)/report.html"
	@echo "MLflow:  make ui, then open the link that it prints (experiment rwp-$(1))"
endef

demo: setup
	$(call build,demo)

demo-full: setup
	$(call build,demo-full)

test: setup
	@$(BIN)/python -m pytest -n $(CORES) --dist loadfile -m "not slow and not gpu and not faults and not slurm and not kubernetes and not mlflow_server"

# The same, and which lines of the code they run.
coverage: setup
	@$(BIN)/python -m pytest -n $(CORES) --dist loadfile -m "not slow and not gpu and not faults and not slurm and not kubernetes and not mlflow_server" --cov --cov-report term

test-slow: setup
	@$(BIN)/python -m pytest -n $(CORES) --dist loadgroup -m "slow and not faults"

# All of the fault matrix, or with RWP_FAULTS_SAMPLE=TEXT a part of it, drawn from that text.
test-faults: setup
	@$(BIN)/python -m pytest -n $(CORES) --dist loadgroup -m faults tests/faults

# Plant faults that give wrong numbers, one at a time, and see that the tests notice.
test-mutants: setup
	@$(BIN)/python tests/mutants/run.py --jobs $(CORES)

# On a machine with an NVIDIA GPU.
test-gpu: setup
	@$(BIN)/python -m pytest -m gpu

# A Slurm of one node on the loopback, from Debian's packages; stops what it starts. As root.
test-slurm: extra-slurm
	@tests/cluster/with_slurm.sh $(BIN)/python -m pytest -m slurm tests/cluster

# What the profile submits, to a pretended Kubernetes on the loopback that runs it here.
test-kubernetes: extra-kubernetes
	@$(BIN)/python -m pytest -m kubernetes tests/cluster

# MLflow on a Postgres of its own, both on the loopback.
test-mlflow-server: extra-server
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
		apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql >/dev/null; } \
		|| { echo "make $@: expected Postgres, or root and apt-get to install it; got neither" >&2; exit 2; }
	@$(BIN)/python -m pytest -m mlflow_server tests/cluster

# The robustbench package pins other versions than ours and so gets an environment of its own; it
# asks setuptools for a module that newer ones have not.
test-robustbench: setup
	@test -x $(VENV)/robustbench/bin/python || python -m venv $(VENV)/robustbench
	@$(VENV)/robustbench/bin/python -m pip install -q robustbench==1.1.1 "setuptools<81"
	@RWP_ROBUSTBENCH_PYTHON="$$PWD/$(VENV)"/robustbench/bin/python python -m pytest -m "robustbench"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# Known vulnerabilities of the locked packages; pip-audit is locked too, in a folder of its own.
audit: setup
	@test -d $(VENV)/audit || $(BIN)/python -m pip install -q --disable-pip-version-check \
		--require-hashes --target $(VENV)/audit -r workflow/envs/audit.lock
	@PYTHONPATH="$$PWD/$(VENV)/audit" $(BIN)/python .ci/audit.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

bench: setup
	@$(BIN)/python benchmarks/run.py

# The pictures of README and docs; needs chromium.
pictures: demo
	@$(BIN)/python benchmarks/pictures.py
	@$(BIN)/python benchmarks/precision_curves.py

# The first hours on a GPU, a slice per call: it goes on where it was (docs/benchmarks.md). Needs no
# setup: a machine with PyTorch is enough. DATA: a folder with train.pt and test.pt, or the JPEG tree.
MINUTES ?= 9
bench-gpu:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py --minutes $(MINUTES) \
		$(if $(DATA),--data $(DATA)) $(if $(ARCHIVE),--archive $(ARCHIVE)) $(if $(FROM),--from $(FROM)) $(BENCH_GPU)

# The figures of docs/scaling.md.
scale: setup
	@$(BIN)/python benchmarks/scale_rates.py --autoattack small
	@$(BIN)/python benchmarks/scale_law.py
	@$(BIN)/python benchmarks/scale_dag.py
	@$(BIN)/python benchmarks/scale_bill.py
	@$(MAKE) --no-print-directory extra-server
	@$(BIN)/python benchmarks/scale_tracking.py

# MLflow on this machine only, over the local store.
ui: setup
	@$(BIN)/rwp ui

# The container of docs/cluster.md, with whatever builds one here.
BUILDER = $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))
image:
	@test -n "$(BUILDER)" || { echo "make image: expected docker, podman or buildah, found none; install one" >&2; exit 2; }
	$(BUILDER) build -t rwp $(IMAGE_OPTIONS) .

# Resolve all packages together again, with hashes and without the addresses of any index.
lock:
	uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 requirements.in -o requirements.lock
	echo uv | uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 - -o workflow/envs/uv.lock
	echo pip-audit | uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 - -o workflow/envs/audit.lock
	for extra in $(EXTRAS); do \
		python3 -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
			print(*project["optional-dependencies"][sys.argv[1]], sep="\n")' $$extra | uv pip compile \
			--universal --generate-hashes --no-emit-index-url --python-version 3.11 -c requirements.lock \
			- -o workflow/envs/$$extra.lock || exit 2; done

clean:
	rm -rf results data .state logs mlflow.db mlruns .snakemake
