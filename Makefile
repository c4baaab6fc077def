# `make demo` and `make test` work as the first command in a fresh clone: what they need is installed once into .venv.

PYTHON ?= python3
DEMO_OUT ?= demo-run
MODEL ?= sdmatte-nano

BIN := .venv/bin
STAMP := .venv/.installed
# The tests behind test-full and test-slow outlast the suite's usual limit (pyproject.toml). Unit: second per test.
LONG := --timeout=3600

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-full test-slow parity eval-nano calibrate-nano score-report ablation train-nano corpus zoo chaos integration label-studio datumaro report-speed bench-engine bench-pipeline bench-memory bench-png bench-scale curves lint types format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 chooses the interpreter that .venv is made from, DEMO_OUT=folder the demo's output."

venv: $(STAMP) ## make .venv and install the project into it, if that has not happened yet

demo: $(STAMP) ## label real photographs and write records and a contact sheet to DEMO_OUT
	$(BIN)/python jobs/demo.py --out "$(DEMO_OUT)"

test: $(STAMP) ## the test suite
	$(BIN)/python -m pytest

test-full: $(STAMP) ## the released model configuration at its full size (about 12 GB of memory)
	$(BIN)/python -m pytest -m full $(LONG)

test-slow: $(STAMP) ## tests that take minutes or load the machine
	$(BIN)/python -m pytest -m slow $(LONG)

parity: $(STAMP) ## deviation from the reference outputs; fails above 1e-4
	$(BIN)/python benchmarks/parity.py

eval-nano: $(STAMP) ## the bundled model (or MODEL=folder) on held-out scenes and photographs; fails where a target is missed
	$(BIN)/python benchmarks/nano.py --model "$(MODEL)"

calibrate-nano: $(STAMP) ## the bundled calibrations anew, on drawn scenes (about 20 minutes on two cores); writes pipeline/calibrations
	test -e runs/calibration/scenes/objects.json || $(BIN)/python benchmarks/calibration_set.py --out runs/calibration/scenes
	$(BIN)/python jobs/calibrate.py --data folder=runs/calibration/scenes --model sdmatte-nano \
	    --work runs/calibration/work --out pipeline/calibrations/sdmatte-nano-flip.json \
	    --single pipeline/calibrations/sdmatte-nano.json quality.second=flip workers.actors=2 workers.cpus_per_actor=1

score-report: $(STAMP) ## scores of the bundled model against true errors; fails where a target is missed
	$(BIN)/python benchmarks/scores.py

ablation: $(STAMP) ## train a small model with all parts, and one without each; fails unless every part helps
	$(BIN)/python benchmarks/ablation.py --out runs/ablation/ablation.json

# The shell takes both paths from the environment, where make puts them: spaces and quotes in them do no harm.
train-nano: $(STAMP) ## the bundled model anew (goes on where runs/nano stands): NOTO_EMOJI=tar KODAK=tar (hours on a CPU)
	@bad=; readable() { \
	    name=$$1; path=$$2; \
	    case $$path in "~/"*) path=$$HOME/$${path#??} ;; esac; \
	    test -r "$$path" && realpath -- "$$path" && return; \
	    if test -z "$$path"; then echo "$$name is not set: name the file, as in" >&2; \
	    else echo "$$name: can't read '$$path'; name the file, as in" >&2; fi; \
	    echo "    make train-nano NOTO_EMOJI=noto-emoji.tar KODAK=kodak.tar    (see configs/train-nano-1.yaml)" >&2; \
	    return 1; }; \
	unused() { \
	    if test -e "$$2" || test -L "$$2"; then test "$$(realpath -- "$$2" 2>/dev/null)" = "$$1"; fi || { \
	        echo "runs/ was made with other data: remove runs/nano runs/nano-fine runs/banks runs/data first" >&2; \
	        return 1; }; }; \
	link() { test -e "$$2" || { mkdir -p runs/data && ln -s "$$1" "$$2"; }; }; \
	emoji=$$(readable NOTO_EMOJI "$$NOTO_EMOJI") || bad=1; \
	kodak=$$(readable KODAK "$$KODAK") || bad=1; \
	test -z "$$bad" || exit 2; \
	unused "$$emoji" runs/data/noto-emoji.tar && unused "$$kodak" runs/data/kodak.tar || exit 2; \
	link "$$emoji" runs/data/noto-emoji.tar && link "$$kodak" runs/data/kodak.tar
	for part in 1 2 3; do $(BIN)/python jobs/train.py --config configs/train-nano-$$part.yaml || exit 1; done

corpus: $(STAMP) ## 5,000 images in a real S3 server, killed five times (needs Ceph's radosgw); writes docs/corpus.md
	$(BIN)/python benchmarks/corpus.py

chaos: $(STAMP) ## faults injected into labelling runs; fails unless nothing is lost or doubled (an hour and a quarter; Linux)
	$(BIN)/python benchmarks/chaos.py

integration: $(STAMP) ## object stores of this machine (moto; Ceph's S3 gateway) and Label Studio, where they are installed
	@{ command -v radosgw && command -v ceph-mon && command -v ceph-mgr && command -v ceph; } >/dev/null || { \
	    echo "Ceph's S3 gateway is not installed: its tests are skipped. On Debian and Ubuntu:"; \
	    echo "    apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common"; }
	$(BIN)/python -m pytest tests/integration -m 'slow or not slow' $(LONG)

# datumaro holds pyarrow, pillow and pandas back: it sees the packages of .venv behind its own.
DATUMARO := .venv-datumaro/bin/python

datumaro: .venv-datumaro/.installed ## datumaro reads what this project exports: the tests that need it, in an environment of its own
	$(DATUMARO) -m pytest -k datumaro tests/pipeline/test_pipeline_review_coco.py \
	    tests/pipeline/test_pipeline_review_cvat.py tests/pipeline/test_pipeline_curation_exports_coco.py

.venv-datumaro/.installed: $(STAMP)
	@echo "Installing datumaro into .venv-datumaro. This happens once."
	@$(BIN)/python -m venv .venv-datumaro
	@$(DATUMARO) -m pip install --quiet --quiet --disable-pip-version-check 'datumaro>=1.13,<2'
	@realpath $(BIN)/../lib/python3.*/site-packages > "$$(echo .venv-datumaro/lib/python3.*/site-packages)/project.pth"
	@touch $@

label-studio: .venv-label-studio/.installed ## Label Studio in a virtual environment of its own, for `make integration` and to try docs/review.md

zoo: $(STAMP) ## bad and unusual inputs between good neighbours, each with its documented code; writes docs/zoo.md
	$(BIN)/python benchmarks/zoo.py

report-speed: $(STAMP) ## how long people wait for a report of 20 and of 2,000 objects, in a real browser; fails above 3 s
	$(BIN)/python benchmarks/report_page.py

bench-engine: $(STAMP) ## the engine beside a plain baseline, and how far its alphas are from it; fails where a target is missed
	$(BIN)/python benchmarks/engine.py

bench-pipeline: $(STAMP) ## jobs/label.py beside the bare engine and plain Python, over a real S3 server; fails where a target is missed
	$(BIN)/python benchmarks/pipeline.py

bench-memory: $(STAMP) ## memory of driver and object store with 1,000 and 20,000 images; fails where a target is missed
	$(BIN)/python benchmarks/memory.py

bench-png: $(STAMP) ## size and time of alphas as PNG, by setting; fails unless the chosen one is among the best
	$(BIN)/python benchmarks/png.py

bench-scale: $(STAMP) ## what grows with the corpus, and how; fails where a target is missed
	$(BIN)/python benchmarks/scale.py

curves: $(STAMP) ## loss curves of the bundled model's training (or RUN=folder of another), in runs/curves.png
	$(BIN)/python benchmarks/curves.py $(if $(RUN),--run "$(RUN)")

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

format: $(STAMP) ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build products (.venv and outputs of runs stay)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -path './.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +

# The stamp is as old as the last complete installation: an interrupted one, or new dependencies, install again.
$(STAMP): pyproject.toml | $(BIN)/pip
	@echo "Installing PyTorch, Ray and the development tools into .venv. This happens once and takes some minutes."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[dev]'
	@echo "Installed."
	@touch $@

# Apart from .venv: it wants other versions of what is in there. 1 GB.
.venv-label-studio/.installed:
	@echo "Installing Label Studio into .venv-label-studio. This happens once and takes some minutes."
	@$(PYTHON) -m venv .venv-label-studio
	@.venv-label-studio/bin/python -m pip install --quiet --quiet --disable-pip-version-check 'label-studio>=1.23,<1.24'
	@touch $@
	@echo "Installed. It is started by: .venv-label-studio/bin/label-studio start"

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' || { \
	    echo "sdmatte needs Python 3.11 to 3.14; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Install one and name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make virtual environments (no venv or ensurepip module)." >&2; \
	    echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
