# `make notebooks` and `make test` do everything on a fresh machine; `make help` lists the rest.

PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := Scripts
else
BIN := bin
endif
PY := .venv/$(BIN)/python
PEERS_PY := .venv-benchmark/$(BIN)/python
DEMO_PY := .venv-demo/$(BIN)/python
NOTEBOOKS := 1_Load_and_Visualize_Data.ipynb 2_Define_the_Network_Architecture.ipynb \
             3_Facial_Keypoint_Detection_Complete_Pipeline.ipynb 4_Fun_with_Keypoints.ipynb
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
# A kernel on this machine needs no encryption, and the warning that it has none (log level 30) only alarms.
EXECUTE := $(PY) -m jupyter nbconvert --log-level ERROR --execute --to notebook \
           --ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.record_timing=False \
           --ExecutePreprocessor.extra_arguments=--IPKernelApp.log_level=40
# Jupyter's page, with a text for each picture.
PAGES := --template alt --TemplateExporter.extra_template_basedirs=.ci/html
export PYTHONHASHSEED := 0
# PyTorch's threads sleep while they wait; spinning, as by default, they are very slow beside another program.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup notebooks docs test lock packages soak refresh data verify train photo detector free twin evaluate failures benchmark demo lab clean
.DELETE_ON_ERROR:

help:
	@echo "make setup       set up .venv and nothing else"
	@echo "make notebooks   set up .venv, run the four notebooks; the results lie in build/notebooks/"
	@echo "make docs        the docstrings, pages and notebooks as a site, its links checked: build/docs/index.html"
	@echo "make test        set up .venv, check style and types, run pytest and nbval, always on the sample"
	@echo "make lock        write requirements.lock: versions and hashes of all packages of make notebooks and make test"
	@echo "make packages    write the licences of what is installed, tests/licences.csv, and an SBOM, build/sbom.json"
	@echo "make soak        an hour of damaged files, kills, many callers and mutants: results/soak.json"
	@echo "make demo        a page for photos and the webcam on this machine, in .venv-demo"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make data        fetch the official data set into data/ and verify it"
	@echo "make train       run the recipe outside a notebook: saved_models/mine.safetensors"
	@echo "make photo       the network for photographs: build/keypoints_model_2.safetensors (PHOTO_OPTIONS='--folder DIR' names its data)"
	@echo "make detector    the face detector: build/detector.onnx (DETECTOR_OPTIONS='--folder DIR' names photographs, else heads)"
	@echo "make free        detector and keypoint network of what is free alone, in build/ (FREE_OPTIONS='--photos DIR': docs/training.md)"
	@echo "make twin        the same without 30 % of the people, for figures of people never seen"
	@echo "make evaluate    measure the shipped weights on every set, write results/evaluation.json"
	@echo "make failures    a page of the worst faces: build/failures/index.html"
	@echo "make benchmark   measure dlib, OpenCV's LBF and MediaPipe beside them (BENCHMARK_OPTIONS='--detection DIR' names sets)"
	@echo "make refresh     run the notebooks on the sample and keep the outputs in the committed files"
	@echo "make clean       remove .venv, .venv-benchmark, .venv-demo and build/"
	@echo "TRAIN_OPTIONS=--bfloat16 trains twice as fast on processors with AVX512_BF16 or AMX, as the shipped weights were"
	@echo "LOCKED=1 installs exactly the files of requirements.lock"
	@echo "PYTHON=python3.12 picks a Python (3.11 to 3.14, but not 3.14.1);"
	@echo "TORCH_INDEX=https://download.pytorch.org/whl/cpu takes PyTorch's small CPU build"

# requirements.lock holds the packages of both stamps below, for every platform and Python; pip refuses other files.
ifdef LOCKED
ifdef TORCH_INDEX
$(error got LOCKED and TORCH_INDEX, expected one of them: requirements.lock has the hashes of PyPI's files)
endif
INSTALL := --require-hashes -r requirements.lock
LOCK := requirements.lock
endif

# A stamp that is newer than the requirements means that the environment holds them.
# The pinned packages have wheels for these: NumPy none for 3.15, and torchvision excludes 3.14.1.
.venv/made: requirements.txt $(LOCK)
	@$(PYTHON) -c "import sys; v = sys.version_info[:3]; sys.exit(not (3, 11) <= v < (3, 15) or v == (3, 14, 1))" \
	  || { echo "got $$($(PYTHON) --version 2>&1) as '$(PYTHON)', expected Python 3.11 to 3.14, but not 3.14.1:" \
	       "make PYTHON=..." >&2; exit 1; }
	@echo "setting up .venv (some minutes and up to 6 GB with PyPI's build of PyTorch for Linux) ..."
	@$(PYTHON) -m venv .venv
ifdef TORCH_INDEX
	@$(PIP_INSTALL) --index-url $(TORCH_INDEX) $$(grep -o '^torch[^ ]*' requirements.txt)
endif
	@$(PIP_INSTALL) $(or $(INSTALL),-r requirements.txt)
	@touch $@

.venv/made-for-tests: tests/requirements.txt .venv/made
	@$(PIP_INSTALL) $(or $(INSTALL),-r tests/requirements.txt)
	@touch $@

setup: .venv/made
	@echo "done: .venv/$(BIN)/python -m keypoints filter photo.jpg --filter sunglasses"

notebooks: .venv/made
	@mkdir -p build/notebooks
	@for notebook in $(NOTEBOOKS); do \
	  echo "running $$notebook"; \
	  $(EXECUTE) --output-dir build/notebooks "$$notebook" || exit 1; \
	  $(PY) -m jupyter nbconvert --log-level ERROR --to html $(PAGES) "build/notebooks/$$notebook" || exit 1; \
	done
	@echo "done: build/notebooks/ holds the executed notebooks, and each as a page (.html)"

refresh: .venv/made
	@mkdir -p build && rm -f build/seconds
	@for notebook in $(NOTEBOOKS); do \
	  echo "running $$notebook"; began=$$(date +%s); \
	  KEYPOINTS_DATA=sample $(EXECUTE) --inplace "$$notebook" || exit 1; \
	  echo "\"$${notebook%.ipynb}\": $$(($$(date +%s) - began))" >> build/seconds; \
	done
	@{ echo "{"; sed '$$!s/$$/,/' build/seconds; echo "}"; } > results/notebook_seconds.json
	@$(PY) -m training.studies.report

test: .venv/made-for-tests
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m pytest
	@KEYPOINTS_DATA=sample $(PY) -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg $(NOTEBOOKS)

docs: .venv/made-for-tests
	@$(PY) .ci/docs.py build/docs

# uv keeps the versions that are in the file; `rm requirements.lock` first takes the newest. 3.11.5: soupsieve needs it.
lock: .venv/made
	@$(PIP_INSTALL) --target build/uv uv==0.13.9
	@PYTHONPATH=build/uv $(PY) -m uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes \
	  --no-annotate --custom-compile-command "make lock" requirements.txt tests/requirements.txt -o requirements.lock

packages: .venv/made-for-tests
	@$(PIP_INSTALL) --target build/pip-licenses pip-licenses
	@PYTHONPATH=build/pip-licenses $(PY) -m piplicenses --format=csv --from=mixed --output-file tests/licences.csv \
	  --ignore-packages pip-licenses prettytable tomli
	@$(PIP_INSTALL) --target build/cyclonedx cyclonedx-bom==7.5.0
	@$(PY) -c "import runpy, sys; sys.path.insert(0, 'build/cyclonedx'); runpy.run_module('cyclonedx_py.__main__', run_name='__main__')" \
	  environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json .venv

soak: .venv/made-for-tests
	@$(PIP_INSTALL) -r tests/soak/requirements.txt
	@$(PY) tests/soak/fuzz.py
	@$(PY) tests/soak/kills.py
	@$(PY) tests/soak/calls.py
	@$(PY) tests/soak/mutants.py
	@$(PY) tests/soak/covered.py

data: .venv/made
	@$(PY) -m data_load fetch

verify: .venv/made
	@$(PY) -m data_load verify

train: .venv/made
	@$(PY) -m training train $(TRAIN_OPTIONS)

photo: .venv/made
	@$(PY) -m training.photo train $(PHOTO_OPTIONS)

detector: .venv/made
	@$(PY) -m training.detector train $(DETECTOR_OPTIONS)

free: .venv/made build/render/made
	@$(PY) -m training.free $(FREE_OPTIONS)

build/render/made: data/sample/requirements.txt
	@$(PYTHON) -m venv build/render
	@build/render/$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

twin: .venv/made
	@$(PY) -m training train --twin $(TRAIN_OPTIONS) --out build/keypoints_model_1_twin.safetensors
	@if grep -q '"data": "official"' build/keypoints_model_1_twin.json; then \
	  cp build/keypoints_model_1_twin.json results/; fi

# The committed figures, and with them the README's tables, are only ever of the official set.
REPORT := if [ "$$($(PY) -c 'import data_load; print(data_load.find_data().name)')" = official ]; then \
            $(PY) -m training.studies.report; fi

evaluate: .venv/made
	@$(PY) -m training evaluate
	@$(REPORT)

failures: .venv/made
	@$(PY) -m training failures

# What has no wheel for this Python or machine is left out with a line, and its row with it; NumPy and OpenCV must be there.
PEERS_INSTALL := $(PEERS_PY) -m pip install --quiet --disable-pip-version-check --no-deps \
                 --only-binary :all: --no-binary face_recognition_models

.venv-benchmark/made: training/studies/benchmark_requirements.txt
	@echo "setting up .venv-benchmark (a minute or two and 0.7 GB) ..."
	@$(PYTHON) -m venv .venv-benchmark
	@$(PEERS_INSTALL) -r $< || sed 's/#.*//; /^ *$$/d' $< | while read -r line; do \
	  $(PEERS_INSTALL) "$$line" || echo "left out: $$line"; \
	done
	@$(PEERS_PY) -c "import cv2, numpy"
	@touch $@

benchmark: .venv/made .venv-benchmark/made
	@$(PY) -m training.studies.benchmark --python $(PEERS_PY) $(BENCHMARK_OPTIONS)
	@$(REPORT)

# Gradio beside what .venv holds: a path file shows it those packages, so that PyTorch is not installed twice. Where
# Gradio wants another version (of Pillow), that one lies in .venv-demo and comes first. requirements.lock has no Gradio.
.venv-demo/made: demo/requirements.txt .venv/made
	@echo "setting up .venv-demo (a minute and 0.2 GB) ..."
	@$(PY) -m venv --clear --without-pip .venv-demo
	@$(DEMO_PY) -c "import pathlib, sys, sysconfig; \
	  (pathlib.Path(sysconfig.get_path('purelib')) / 'venv.pth').write_text(sys.argv[1])" \
	  "$$($(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))")"
	@$(PY) -m pip --python $(DEMO_PY) install --quiet --disable-pip-version-check -r $<
	@touch $@

demo: .venv-demo/made
	@$(DEMO_PY) -m demo $(DEMO_OPTIONS)

lab: .venv/made
	@$(PY) -m jupyter lab

clean:
	@rm -rf .venv .venv-benchmark .venv-demo build
