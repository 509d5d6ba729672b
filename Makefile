# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer and make; `make help` lists the rest.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo_out
ENGINE ?= docker
# Without what they need themselves: some want TensorFlow for what is not used here.
REFERENCES := monai medpy surface-distance torchmetrics lightning-utilities stardist csbdeep six numba llvmlite tqdm \
	grand-challenge-metrics scikit-learn joblib threadpoolctl cloudpickle narwhals networkx
REAL_DATA ?= $(or $(SEGKIT_REAL_DATA),../shared/data)

# The first Python that is new enough and can make virtual environments; PYTHON=... overrides it.
PYTHON ?= $(firstword $(foreach candidate,python3 python3.13 python3.12 python3.11,$(shell \
	$(candidate) -c 'import sys, ensurepip; sys.version_info >= (3, 11) and print("$(candidate)")' 2>/dev/null)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test check check-image rehearsal bench-reading bench-predict bench-window bench-startup bench-peers bench-kills bench-memory bench-workers bench-objects bench-training bench-training-kills bench-good-practice bench-object-matching bench-evaluation reference results gpu real-isbi2012 real-dsb2018 real-glioma real-crc real-crc-unet real-amibr clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 21

setup: $(STAMP)  ## make .venv with segkit, as it is in this folder, and its tools

$(STAMP): pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "segkit needs Python 3.11 or newer with venv: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Installing segkit into $(VENV); the first time this takes a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@touch $@

demo: setup  ## check, train, predict, find mitoses and evaluate on sample_data/
	rm -rf $(DEMO)
	$(BIN)/segkit check sample_data
	$(BIN)/segkit train --data sample_data --config configs/sample.yaml --out $(DEMO)/run
	$(BIN)/segkit predict sample_data/slide/tissue.tif --model $(DEMO)/run --out $(DEMO)/predictions
	$(BIN)/segkit evaluate --data sample_data --model $(DEMO)/run --split test --out $(DEMO)/evaluation
	$(BIN)/segkit train --data sample_data --config configs/sample_mitoses.yaml --out $(DEMO)/mitoses
	$(BIN)/segkit sliding-window sample_data/slide/tissue.tif --model $(DEMO)/mitoses --verify 20 --out $(DEMO)/detections
	@echo
	@echo "Done. Pictures to open:"
	@echo "  $(DEMO)/run/figures/first_batch.png         what the training saw"
	@echo "  $(DEMO)/run/figures/curves.png              how it went"
	@echo "  $(DEMO)/run/figures/validation.png          what it learned"
	@echo "  $(DEMO)/predictions/tissue/overview.png     the slide, segmented"
	@echo "  $(DEMO)/evaluation/report.html              the test images measured, right and wrong: open it in a browser"
	@echo "  $(DEMO)/detections/tissue/overview.png      the slide's mitoses"
	@echo "  $(DEMO)/detections/tissue/windows.png       the same, close up"
	@echo "Or the slide itself:  $(BIN)/segkit view sample_data/slide/tissue.tif $(DEMO)/predictions"

$(DEMO)/run/run.json:
	$(MAKE) demo

test: setup  ## run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8

check: setup  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench-reading: setup  ## speed and memory of reading slides, beside OpenSlide
	$(BIN)/python benchmarks/reading.py

bench-predict: setup $(DEMO)/run/run.json  ## wall time of predict beside that of the network alone
	$(BIN)/python benchmarks/predict.py --model $(DEMO)/run

bench-window: setup  ## the dense forms of a patch CNN beside the naive scan
	$(BIN)/python benchmarks/sliding_window.py

bench-peers: setup  ## predict beside MONAI on the same slide (MONAI_PYTHON: a Python that has MONAI, see the script)
	$(BIN)/python benchmarks/peers.py $(if $(MONAI_PYTHON),--monai-python $(MONAI_PYTHON))

bench-kills: setup  ## kill predict 50 times at random moments, and compare what the next run leaves
	$(BIN)/python benchmarks/kills.py

bench-memory: setup  ## peak memory for slides of 10k, 20k and 40k px beside the plan's
	$(BIN)/python benchmarks/memory.py

bench-workers: setup  ## two torchrun workers beside one
	$(BIN)/python benchmarks/workers.py

bench-objects: setup  ## tracing, joining and writing a million objects
	$(BIN)/python benchmarks/objects.py

bench-training: setup  ## training beside a plain PyTorch loop and segmentation_models_pytorch (where installed)
	$(BIN)/python benchmarks/training.py

bench-training-kills: setup  ## kill train 30 times at random moments, and compare what it leaves when resumed
	$(BIN)/python benchmarks/training_kills.py

bench-good-practice: setup  ## norms, first weights, dropout, augmentation, optimisers side by side (40 minutes)
	$(BIN)/python benchmarks/good_practice.py --data $(REAL_DATA)/isbi2012_em

gpu: setup  ## every check and benchmark that needs a GPU, in eight minutes
	$(BIN)/python benchmarks/gpu.py

check-image: setup  ## build the Dockerfile and try what it promises (ENGINE: docker or podman)
	$(BIN)/python deploy/check_image.py --engine "$(ENGINE)" --record deploy/image_check.md

rehearsal: setup  ## preemption on SLURM and Kubernetes, played through with the files in deploy/
	$(BIN)/python deploy/rehearsal.py --record deploy/rehearsal.md

bench-startup: setup  ## wall time of segkit --help
	$(BIN)/python benchmarks/startup.py

bench-object-matching: setup  ## match 100,000 objects with as many, block by block
	$(BIN)/python benchmarks/object_matching.py

bench-evaluation: setup  ## pixels a second, bootstrap, and the page of 500 images
	$(BIN)/python benchmarks/evaluation.py

reference: setup  ## compare metrics with reference implementations (installed into a folder of their own)
	$(BIN)/python -m pip install --quiet --target .reference --no-deps --constraint constraints.txt $(REFERENCES)
	PYTHONPATH=.reference $(BIN)/python benchmarks/reference.py --data $(REAL_DATA)

real-isbi2012: setup  ## train and measure on ISBI 2012 (real data in REAL_DATA; about an hour)
	$(BIN)/segkit train --data $(REAL_DATA)/isbi2012_em --config configs/isbi2012_em.yaml --out runs/isbi2012
	$(BIN)/segkit evaluate --data $(REAL_DATA)/isbi2012_em --model runs/isbi2012 --set dihedral=true --out evaluation/isbi2012
	$(BIN)/segkit predict $(REAL_DATA)/isbi2012_em/images --model runs/isbi2012 --dihedral --probability --out predictions/isbi2012
	$(BIN)/python benchmarks/isbi2012.py --data $(REAL_DATA)/isbi2012_em --predictions predictions/isbi2012

real-dsb2018: setup  ## train and measure on DSB 2018, by modality (likewise)
	$(BIN)/segkit train --data $(REAL_DATA)/dsb2018 --config configs/dsb2018.yaml --out runs/dsb2018
	$(BIN)/segkit evaluate --data $(REAL_DATA)/dsb2018 --model runs/dsb2018 --set dihedral=true --out evaluation/dsb2018
	$(BIN)/python benchmarks/dsb2018.py --data $(REAL_DATA)/dsb2018 --evaluation evaluation/dsb2018

real-glioma: setup  ## train and measure on glioma nuclei (likewise)
	$(BIN)/segkit train --data $(REAL_DATA)/glioma_nuclei --config configs/glioma_nuclei.yaml --out runs/glioma
	$(BIN)/segkit evaluate --data $(REAL_DATA)/glioma_nuclei --model runs/glioma --split test --set dihedral=true --out evaluation/glioma
	$(BIN)/python benchmarks/otsu_baseline.py --data $(REAL_DATA)/glioma_nuclei --split test --out predictions/glioma_otsu
	$(BIN)/segkit evaluate --pred predictions/glioma_otsu --truth $(REAL_DATA)/glioma_nuclei --split test --set measure=pixels --out evaluation/glioma_otsu

real-crc: setup  ## train, measure and look at nuclei from points (likewise)
	$(BIN)/segkit train --data $(REAL_DATA)/crc_nuclei --config configs/crc_nuclei.yaml --out runs/crc
	$(BIN)/segkit evaluate --data $(REAL_DATA)/crc_nuclei --model runs/crc --out evaluation/crc
	$(BIN)/segkit sliding-window $(REAL_DATA)/crc_nuclei/images/img31.png --model runs/crc --verify 100 --out detections/crc
	$(BIN)/segkit sliding-window $(REAL_DATA)/wsi/CMU-1-Small-Region.svs --model runs/crc --verify 100 --out detections/crc

real-crc-unet: setup  ## the same nuclei by a U-Net's heat map (likewise)
	$(BIN)/segkit train --data $(REAL_DATA)/crc_nuclei --config configs/crc_nuclei_unet.yaml --out runs/crc_unet
	$(BIN)/segkit evaluate --data $(REAL_DATA)/crc_nuclei --model runs/crc_unet --set dihedral=true --out evaluation/crc_unet

real-amibr: setup  ## train on mitoses with each network (an hour)
	for form in "modern 64" "dnn1 101" "dnn2 101"; do set -- $$form; \
		$(BIN)/segkit train --data $(REAL_DATA)/amibr_mitosis --config configs/amibr_mitosis.yaml --set model.form=$$1 --set patches.size_px=$$2 --out runs/amibr_$$1 && \
		$(BIN)/segkit evaluate --data $(REAL_DATA)/amibr_mitosis --model runs/amibr_$$1 --out evaluation/amibr_$$1 || exit; done
	$(BIN)/segkit sliding-window $(REAL_DATA)/hpf_fields --model runs/amibr_dnn1 --stride 1 --mpp 0.25 --out detections/hpf

results: setup  ## write RESULTS.md from what the real-... targets left in evaluation/
	$(BIN)/python benchmarks/results.py $(foreach name,isbi2012 dsb2018 crc crc_unet glioma glioma_otsu,$(name)=evaluation/$(name))

clean:  ## remove what the demo, the tests and the tools leave
	rm -rf $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
