# make demo    the whole chain on a synthetic knee cohort, on the CPU; ends in $(RUN)/report.html
# make test    all tests but test-long and test-label, with coverage
# make test-long  injects faults for an hour or so: kills, damage, full disks; prints a table (see docs)
# make test-numpy126  the tests of packaged bundles on numpy 1.26, in an environment of its own
# make lint    ruff and mypy
# make lock    writes requirements.lock: all packages that requirements.txt brings, with hashes
# make audit   looks these up among known vulnerabilities, where the data can be had
# make docs    the documentation as a site, docs/_build/html
# make label   packages $(RUN) and serves it to 3D Slicer and others with MONAI Label, in an environment of its own
#              APP=crosswarp: with our own app instead of MONAI Label's; STUDIES=folder of images; ARGS="--port 8001"
# make test-label  drives that server, and its guard, over HTTP
# make clean   removes what the targets above built (never runs/, nor what was packaged into dist/)

PYTHON ?= python3
RUN    ?= runs/demo
BIN    := .venv/bin
RUNTIME := .venv/.runtime
DEVELOP := .venv/.develop
DOCS    := .venv/.docs
NUMPY126 := .venv/numpy126
LABEL   := .venv-label/.installed
APP     ?= monaibundle
STUDIES ?= $(RUN)/data/images

# Threads that wait should spin briefly. Without spinning, small networks take twice as long (a step of 82 instead of
# 44 ms on 2 cores); spinning for long makes training many times slower when anything else runs on the machine.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT  := 10000

.PHONY: lock audit demo test test-long test-numpy126 lint docs label test-label clean

demo: $(RUNTIME)
	$(BIN)/python -m crosswarp cohort --folder $(RUN)/data --size 128 --grid 64
	$(BIN)/python -m monai.bundle run \
	    --config_file "['configs/train.json','configs/presets/demo.json']" \
	    --datalist $(RUN)/data/datalist.json --run_dir $(RUN)
	$(BIN)/python -m crosswarp evaluate --run $(RUN)
	@echo "Open $(RUN)/report.html"

# One worker a core, each with one thread: training in two threads beside another process is slower than in one.
test: $(DEVELOP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov -n auto --dist loadfile --max-worker-restart 0 $(ARGS)

test-long: $(DEVELOP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --kills 200 --flips 500 --vanished 60 --full 30 --clocks 15 \
	    --two 10 --signals 40 $(ARGS)

test-numpy126: $(NUMPY126)/.ready
	$(NUMPY126)/bin/python -m pytest -p no:cacheprovider \
	    tests/bundles/test_packaged.py tests/release

lint: $(DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(RUNTIME)
	$(BIN)/python -m pip install --dry-run --ignore-installed --quiet --report - -r requirements.txt \
	    | $(BIN)/python .ci/lock.py > requirements.lock.new
	mv requirements.lock.new requirements.lock

audit: $(RUNTIME)
	@if curl -sfm 10 -o /dev/null https://pypi.org/pypi/monai/1.6.1/json; then \
	    $(BIN)/python -m pip install --quiet pip-audit && \
	    $(BIN)/python -m pip_audit --require-hashes --disable-pip -r requirements.lock; \
	else echo "Not audited: no data of vulnerabilities can be had here."; fi

# Every warning is an error: a broken link, a reference that leads nowhere, a docstring that cannot be read.
docs: $(DOCS)
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs . docs/_build/html
	@echo "Open docs/_build/html/index.html"

label: $(RUNTIME) $(LABEL)
	$(BIN)/python -m crosswarp package --run $(RUN) --out $(RUN)/label/dist --overwrite
	.venv-label/bin/python apps/monailabel/serve.py --zips $(RUN)/label/dist --folder $(RUN)/label \
	    --app $(APP) --studies $(STUDIES) --conf run $(RUN) $(ARGS)

test-label: $(LABEL)
	.venv-label/bin/python -m pytest -m label tests/label $(ARGS)

clean:
	rm -rf .venv .venv-label build docs/_build docs/reference/_api docs/reference/_bundles *.egg-info .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache

OLDER = $(PYTHON) -c 'import sys; sys.version_info < (3, 13) or sys.exit("numpy 1.26, which this target is for, \
	has no wheels for Python 3.13: try  make PYTHON=python3.12 $(MAKECMDGOALS)")'

# The stamp files make a second call free; a changed requirements file installs again.
$(RUNTIME): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit("the pinned packages need Python 3.11 to 3.13, \
	and $(PYTHON) is " + sys.version.split()[0] + ": try  make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# sam2, which MONAI Label requires and we do not use, would otherwise compile CUDA code with a torch of its own.
$(LABEL): requirements-label.txt
	@$(OLDER)
	$(PYTHON) -m venv .venv-label
	.venv-label/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1 setuptools wheel
	SAM2_BUILD_CUDA=0 .venv-label/bin/python -m pip install --quiet --no-build-isolation -r requirements-label.txt
	@touch $@

# icon-registration is the independent implementation that our losses and networks are tested against; fireants and
# unigradicon are baselines. Without their dependencies: the parts used need only torch, and fireants would take
# SimpleITK back to 2.2.
$(DEVELOP): $(RUNTIME) requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps icon-registration==1.1.9 \
	    fireants==1.5.0 unigradicon==1.0.6
	@touch $@

$(DOCS): $(RUNTIME) requirements-docs.txt
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	@touch $@

# What a packaged bundle needs, with numpy 1.26.
$(NUMPY126)/.ready: requirements.txt requirements-dev.txt
	@$(OLDER)
	$(PYTHON) -m venv $(NUMPY126)
	{ sed 's/^numpy==.*/numpy==1.26.4/' requirements.txt; grep -E '^(onnx.*|pytest(-timeout)?)==' requirements-dev.txt; } \
	  > $(NUMPY126)/requirements.txt
	$(NUMPY126)/bin/python -m pip install --quiet -r $(NUMPY126)/requirements.txt
	@touch $@
