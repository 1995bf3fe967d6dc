# The whole tool chain. Every target works on a machine that has only Debian 12, Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST ?= $(BIN)/python -m pytest
# Most tests wait for servers more than they compute. `make test TESTERS=0` runs them one by one.
TESTERS ?= 3
# In the order of the folders: many small modules come last, and nobody waits for a big one at the end.
SPREAD := -n $(TESTERS) --dist loadscope --no-loadscope-reorder
# What proftpd is linked with; it is unpacked, not installed.
PROFTPD := libhiredis0.14 libmemcached11 libmemcachedutil2 libpcre2-posix3 libwrap0
# For Bio-Formats; whatever Java is there will do.
JAVA   := $(if $(shell command -v java),,default-jre-headless)
# Hundreds of programs are started by the tests: compiling each of them anew is a fifth of what that costs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup omero demo test slow check format bench wheel-test clean
.DELETE_ON_ERROR:

setup: $(VENV)/.ready  ## the environment with everything the project needs

$(VENV)/.ready: setup.cfg pyproject.toml tools/setup.sh
	@tools/setup.sh "$(PYTHON)" "$(VENV)"

omero: $(VENV)/.omero  ## the OMERO half: builds what PyPI has no wheel of (once, some minutes), installs the extra

$(VENV)/.omero: $(VENV)/.ready tools/omero.sh tools/zeroc-ice/build.sh $(wildcard tools/zeroc-ice/include/*)
	@tools/omero.sh "$(VENV)"

demo: $(VENV)/.ready $(if $(OMERO),omero)  ## the main job on real DICOM, in .demo/, nothing left running; OMERO=1: and on microscopy
	@tools/debian-packages.sh rsync $(if $(OMERO),$(JAVA))
	@$(BIN)/python -m lading.demo --root .demo

test: omero  ## the default suite, with real servers on loopback
	@tools/debian-packages.sh rsync openssh-server openssh-client openssl stunnel4 apache2-bin dcmtk orthanc exfat-fuse exfatprogs ntfs-3g samba $(PROFTPD) zeroc-glacier2 $(JAVA)
	@tools/ftp-servers.sh
	$(PYTEST) $(SPREAD) -m "not slow"

slow: omero  ## what the default suite leaves out: crash storms, files over 4 GiB
	@tools/debian-packages.sh rsync openssh-server openssh-client openssl stunnel4 apache2-bin dcmtk orthanc exfat-fuse exfatprogs ntfs-3g samba $(PROFTPD) zeroc-glacier2 $(JAVA)
	@tools/ftp-servers.sh
	@PYTHON=$(PYTHON) tools/swift-server.sh
	@PYTHON=$(PYTHON) tools/globus-cli.sh
	$(PYTEST) $(SPREAD) -m slow

check: omero  ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready  ## side by side against what a user would pick instead; docs in bench/README.md
	@tools/debian-packages.sh rsync dcmtk orthanc
	$(BIN)/python bench/run_all.py

wheel-test: omero  ## the acceptance tests against the built wheel, with the source tree out of the way
	@SPREAD="$(SPREAD)" tools/wheel-test.sh "$(PYTHON)" "$(BIN)"

clean:
	rm -rf $(VENV) build dist *.egg-info .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
