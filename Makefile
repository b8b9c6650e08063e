# make demo   hear the detector at work: the shipped model on the shipped scene, at the pace of a microphone
# make test   run every check and every test; torch and the tools live in a virtual environment of their own
# make lint   run the checks alone
# make clean  remove both environments and what the tools left behind

PYTHON ?= python3
PACE ?= --realtime

RUNTIME := .venv
TESTING := .venv-test
# The version that pyproject.toml pins, written nowhere else.
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
# What the tests of rendering run.
TEST_PROGRAMS := fluidsynth fluid-soundfont-gm espeak-ng

.DELETE_ON_ERROR:
.PHONY: demo test lint clean test-programs

demo: $(RUNTIME)/.installed
	$(RUNTIME)/bin/snn-detect replay $(PACE) models/demo/scene.flac

test: lint test-programs
	$(TESTING)/bin/python -m pytest

lint: $(TESTING)/.installed
	$(TESTING)/bin/ruff check .
	$(TESTING)/bin/ruff format --check .
	$(TESTING)/bin/mypy
	$(TESTING)/bin/lint-imports

clean:
	rm -rf $(RUNTIME) $(TESTING) build *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(RUNTIME)/.installed: pyproject.toml
	$(call create_venv,$(RUNTIME))
	@echo "installing the runtime into $(RUNTIME)"
	@$(call install,$(RUNTIME)) --editable .
	@touch $@

# torch goes first and alone: no search for versions of the rest can then reach for another one.
$(TESTING)/.installed: pyproject.toml
	$(call create_venv,$(TESTING))
	@echo "installing $(TORCH), the project and its tools into $(TESTING); this takes minutes the first time"
	@$(call install,$(TESTING)) $(TORCH)
	@$(call install,$(TESTING)) --editable ".[test]"
	@touch $@

test-programs:
	@dpkg-query --show $(TEST_PROGRAMS) >/dev/null 2>&1 || $(call install_packages,$(TEST_PROGRAMS)) || \
	  echo "make: without $(TEST_PROGRAMS) some tests are skipped; install them for all tests"

install = $(1)/bin/python -m pip install -qq --disable-pip-version-check

# Debian keeps what venv needs in a package of its own.
define create_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "make: this needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call install_packages,python3-venv) || \
  { echo "make: $(PYTHON) cannot create environments; as root, run: apt-get install python3-venv" >&2; exit 1; }
@$(PYTHON) -m venv $(1)
endef

# Only root may, and only where there is apt-get; lists of packages are fetched when those here do not suffice.
define install_packages
{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing $(1)" && \
  { $(APT_INSTALL) $(1) >/dev/null 2>&1 || { apt-get update -qq && $(APT_INSTALL) $(1) >/dev/null; }; }; }
endef
APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -qq
