# make demo       replay the shipped scene with the shipped model, at the pace of a microphone
# make test       run every check and every test; torch and the tools live in a virtual environment of their own
# make lint       run the checks alone
# make install    install the runtime and its service below PREFIX; DESTDIR=... goes before every path
# make uninstall  remove them; settings and events stay
# make deb        make a Debian package of the runtime and its service in build/, for this architecture and Python
# make lock       write the releases that install and deb use, with their hashes, to LOCK; UPGRADE=1 takes newer ones
# make check-lock compare its releases with pyproject.toml; new files of an old release do not matter
# make wheels     make wheels for x86-64, ARM with 64 bits and ARM with 32 bits in build/wheels/, on any of them
# make release    make a release in RELEASE, from a commit, and try every file of it in a fresh root; takes half an hour
# make check-wheels  make them and test what they hold; takes minutes
# make check-arm64, make check-armhf    run such a wheel under qemu and compare it with this machine; takes minutes
# make check-archive  measure the archive on HOURS (1000) hours of sound: memory, speed, a restart; takes an hour
# make bench-sources    measure what 16 sources cost in one process, beside one source and beside 16 processes; minutes
# make soak             process SOAK_HOURS (24) hours of sound as fast as they go: does anything grow; some minutes
# make bench-instructions  count the instructions of both engines for a minute of sound, under valgrind; minutes
# make bench-streams    measure what a stream costs beside the same sound from PulseAudio; ten minutes
# make check-node-red   run the flow of the recipes in Node-RED, which npm installs in build/
# make check-home-assistant   run a pinned Home Assistant against the service, through restarts of each part; a quarter of an hour
# make check-simulators   run the NIR forms in the simulators they are for, in environments of their own in build/
# make readme-table  write the table of classes in the README from the model's card and manifest
# make picture    take the picture of the page that the README begins with, in chromium
# make clean      remove all environments and what the tools left behind

PYTHON ?= python3
PACE ?= --realtime
PREFIX ?= /usr/local
DESTDIR ?=
# More than there are cores: most tests of the service wait.
TEST_PROCESSES ?= 4
# What the installed runtime can do beyond listening and writing.
EXTRAS ?= mqtt,metrics,web
# Releases and hashes of all that is installed; LOCK= takes the newest releases instead, of any extra.
LOCK ?= systemd/requirements.txt

RUNTIME := .venv
TESTING := .venv-test
BUILDING := .venv-build
# What the library is built of; where there is no compiler, onnxruntime runs the network.
CORE := setup.py $(wildcard detector/engine/c/*)
# The version that pyproject.toml pins, written nowhere else.
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
# What the tests of sound files, of rendering, of the service and of the exported C run.
TEST_PROGRAMS := fluidsynth fluid-soundfont-gm csound-soundfont musescore-general-soundfont espeak-ng \
  systemd dbus logrotate libportaudio2 libasound2-plugins alsa-utils pulseaudio pulseaudio-utils mosquitto openssl strace util-linux make gcc libc6-dev libasound2-dev cmake \
  clang libclang-rt-dev gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm chromium \
  sox libsox-fmt-base ffmpeg lame curl man-db zsh fish icecast2 gir1.2-gst-rtsp-server-1.0 python3-gi \
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad

.DELETE_ON_ERROR:
.PHONY: demo test lint clean build-programs test-programs run-tests install install-runtime install-service uninstall deb lock check-lock \
  wheels check-wheels check-arm64 check-armhf check-archive check-simulators bench-streams readme-table picture \
  check-node-red check-home-assistant check-debian-13 release bench-sources bench-instructions soak

demo: $(RUNTIME)/.installed
	$(RUNTIME)/bin/snn-detect replay $(PACE) models/demo/scene.flac

# Each process has a core at most: threads of a library would only wait for each other. Compiled modules are kept, since
# hundreds of processes load the same. What tests build, they build with a make of their own.
TEST_ENVIRONMENT := MAKEFLAGS= PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
test: lint run-tests

run-tests: $(TESTING)/.installed test-programs
	$(TEST_ENVIRONMENT) $(TESTING)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: $(TESTING)/.installed
	$(TESTING)/bin/ruff check .
	$(TESTING)/bin/ruff format --check .
	$(TESTING)/bin/mypy
	$(TESTING)/bin/lint-imports

clean:
	rm -rf $(RUNTIME) $(TESTING) $(BUILDING) build detector/engine/*.so *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(RUNTIME)/.installed: pyproject.toml $(CORE)
	$(call create_venv,$(RUNTIME))
	@echo "installing the runtime into $(RUNTIME)"
	@$(call install,$(RUNTIME)) --editable .
	@touch $@

# torch goes first and alone: no search for versions of the rest can then reach for another one.
$(TESTING)/.installed: pyproject.toml $(CORE) | build-programs
	$(call create_venv,$(TESTING))
	@echo "installing $(TORCH), the project and its tools into $(TESTING); this takes minutes the first time"
	@$(call install,$(TESTING)) $(TORCH)
	@$(call install,$(TESTING)) --editable ".[test]"
	@touch $@

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' detector/__init__.py)
# Once all of it is downloaded and verified, nothing comes from elsewhere, not even what builds the wheel.
EMPTY :=
COMMA := ,
SPACE := $(EMPTY) $(EMPTY)
VERIFIED = $(if $(LOCK),--no-index --find-links build/wheel)
ROOT := $(abspath $(DESTDIR))
PROGRAM := $(PREFIX)/lib/snn-detect
DOCUMENTS := $(PREFIX)/share/doc/snn-detect
# systemd looks for units below these two alone.
MANUALS := $(PREFIX)/share/man/man1
BASH_COMPLETIONS := $(PREFIX)/share/bash-completion/completions
# Debian's zsh and fish look below /usr in folders of their own for what packages bring.
ZSH_COMPLETIONS := $(PREFIX)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
FISH_COMPLETIONS := $(PREFIX)/share/fish/vendor_completions.d
UNITS := $(if $(filter /usr /usr/local,$(PREFIX)),$(PREFIX),/usr/local)/lib

# A wheel that is there already, instead of one that is made here; with MACHINE=aarch64 or armv7l, an installation for
# that processor, for the same release of Python as here.
WHEEL :=
MACHINE :=
TAGS := $(if $(MACHINE),$(foreach number,17 24 26 27 28 31 34,--platform manylinux_2_$(number)_$(MACHINE)) \
  --platform manylinux2014_$(MACHINE))
INSTALL_WHEEL = $(if $(MACHINE),$(call install,$(BUILDING)) "uv>=0.7" && $(BUILDING)/bin/uv pip install --quiet \
  --python $(ROOT)$(PROGRAM)/bin/python --python-platform $(MACHINE)-manylinux_2_36,\
  $(BUILDING)/bin/python -m pip --python $(ROOT)$(PROGRAM)/bin/python install -qq --disable-pip-version-check --no-compile) \
  $(VERIFIED) "$$(echo build/wheel/snn_detect-*.whl)[$(EXTRAS)]"

# PyPI has no wheels of these for ARM with 32 bits, Debian 13 has packages, which the environment then sees; of
# onnxruntime there is none at all. Debian 12 has cffi alone: wheels of the others have to be in the folder COMPILED. The
# rest of the lock file is installed wheel by wheel, whatever EXTRAS says: uv knows no such processor, and pip would look
# for what Debian has.
ARMHF := $(if $(MACHINE),$(filter armv7l,$(MACHINE)),$(filter armhf,$(shell dpkg --print-architecture 2>/dev/null)))
COMPILED :=
OF_DEBIAN := cffi $(if $(COMPILED),,numpy soxr)
ARMHF_PACKAGES := libsndfile1 $(addprefix python3-,$(OF_DEBIAN))
ARMHF_LOCK := sed -e '/^\(pycparser\|cffi\|numpy\|soxr\)==/,/[^\\]$$/d' -e '/^[a-z].*platform_machine/,/[^\\]$$/d'
INSTALL_ARMHF = $(call install,$(BUILDING)) "installer>=0.7" && for file in build/wheel/*.whl; do \
  test "$${file\#\#*/setuptools-}" != "$$file" || PYTHONPATH=$$(echo $(abspath $(BUILDING))/lib/python3*/site-packages) \
  $(ROOT)$(PROGRAM)/bin/python -m installer --no-compile-bytecode $$file || exit 1; done
REQUIRE_ARMHF = { test -n "$(LOCK)" && { test -n "$(COMPILED)" || \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 13))'; } || { echo \
  "make: for ARM with 32 bits this needs LOCK and the Python of Debian 13 or newer, which has numpy 2 and soxr" >&2; exit 1; }; }

install: install-runtime install-service

# An environment of its own: Debian's Python takes no packages from elsewhere. Nothing in it knows of DESTDIR.
install-runtime: $(BUILDING)/.installed
	@echo "installing the runtime into $(ROOT)$(PROGRAM)"
	@rm -rf build/wheel $(LEFT_BY_BUILDS) && mkdir -p build
	@$(if $(ARMHF),$(REQUIRE_ARMHF) && $(ARMHF_LOCK) $(LOCK) >build/lock.armhf.txt)
	@$(if $(LOCK),$(call install,$(BUILDING),download) $(TAGS) --require-hashes --only-binary :all: --no-deps \
	  -r $(if $(ARMHF),build/lock.armhf.txt,$(LOCK)) -d build/wheel)
	@$(if $(COMPILED),cp $(COMPILED)/*.whl build/wheel)
	@$(if $(WHEEL),mkdir -p build/wheel && cp $(WHEEL) build/wheel,\
	  $(call install,$(BUILDING),wheel) $(VERIFIED) --no-deps --wheel-dir build/wheel .)
	@$(PYTHON) -m venv --clear --without-pip $(if $(ARMHF),--system-site-packages) $(ROOT)$(PROGRAM)
	@$(if $(ARMHF),$(INSTALL_ARMHF),$(INSTALL_WHEEL))
	@rm -f $(ROOT)$(PROGRAM)/bin/[aA]ctivate* $(ROOT)$(PROGRAM)/lib/python*/site-packages/snn_detect-*/direct_url.json
	@test -z "$(ROOT)" || grep -rlIF "$(ROOT)" $(ROOT)$(PROGRAM)/bin $(ROOT)$(PROGRAM)/pyvenv.cfg | xargs -r sed -i "s|$(ROOT)||g"
	@$(ROOT)$(PROGRAM)/bin/python -m compileall -qq $(if $(ROOT),-s $(ROOT) -p /) $(ROOT)$(PROGRAM)/lib || true
	@chmod -R u=rwX,go=rX $(ROOT)$(PROGRAM)

install-service:
	@echo "installing the service into $(ROOT)$(UNITS)/systemd"
	@install -d $(addprefix $(ROOT),$(PREFIX)/bin $(DOCUMENTS) $(UNITS)/systemd/system $(UNITS)/systemd/user \
	  $(UNITS)/sysusers.d /etc/snn-detect/config.d /etc/logrotate.d $(MANUALS) $(BASH_COMPLETIONS) $(ZSH_COMPLETIONS) \
	  $(FISH_COMPLETIONS))
	@ln -sf ../lib/snn-detect/bin/snn-detect $(ROOT)$(PREFIX)/bin/snn-detect
	@for unit in system/snn-detect.service user/snn-detect.service; do \
	  sed 's|/usr/bin/snn-detect|$(PREFIX)/bin/snn-detect|; s|/usr/share/doc/snn-detect|$(DOCUMENTS)|' \
	    systemd/$${unit#system/} >$(ROOT)$(UNITS)/systemd/$$unit && chmod 644 $(ROOT)$(UNITS)/systemd/$$unit || exit 1; \
	done
	@install -m 644 systemd/snn-detect.sysusers.conf $(ROOT)$(UNITS)/sysusers.d/snn-detect.conf
	@gzip -n9c systemd/manual/snn-detect.1 >$(ROOT)$(MANUALS)/snn-detect.1.gz
	@chmod 644 $(ROOT)$(MANUALS)/snn-detect.1.gz
	@install -m 644 systemd/completions/bash/snn-detect $(ROOT)$(BASH_COMPLETIONS)
	@install -m 644 systemd/completions/zsh/_snn-detect $(ROOT)$(ZSH_COMPLETIONS)
	@install -m 644 systemd/completions/fish/snn-detect.fish $(ROOT)$(FISH_COMPLETIONS)
	@install -m 644 systemd/README.md systemd/RECIPES.md systemd/config.toml systemd/prometheus-alerts.yml LICENSE $(ROOT)$(DOCUMENTS)
	@install -d $(ROOT)$(DOCUMENTS)/recipes
	@install -m 644 $(wildcard systemd/recipes/*) $(ROOT)$(DOCUMENTS)/recipes
	@test -e $(ROOT)/etc/snn-detect/config.toml || install -m 644 systemd/config.toml $(ROOT)/etc/snn-detect
	@test -e $(ROOT)/etc/logrotate.d/snn-detect || \
	  install -m 644 systemd/snn-detect.logrotate $(ROOT)/etc/logrotate.d/snn-detect
	@test -n "$(ROOT)" || { systemd-sysusers $(UNITS)/sysusers.d/snn-detect.conf && $(call systemd_reload) && \
	  echo "next: snn-detect devices; /etc/snn-detect/config.toml; systemctl enable --now snn-detect"; }

uninstall:
	@test -n "$(ROOT)" || ! test -d /run/systemd/system || systemctl disable --now snn-detect.service || true
	@rm -rf $(addprefix $(ROOT),$(PROGRAM) $(DOCUMENTS))
	@rm -f $(addprefix $(ROOT),$(PREFIX)/bin/snn-detect $(MANUALS)/snn-detect.1.gz $(BASH_COMPLETIONS)/snn-detect \
	  $(ZSH_COMPLETIONS)/_snn-detect $(FISH_COMPLETIONS)/snn-detect.fish $(addprefix $(UNITS)/,systemd/system/snn-detect.service \
	  systemd/user/snn-detect.service sysusers.d/snn-detect.conf) /etc/logrotate.d/snn-detect)
	@test -n "$(ROOT)" || { $(call systemd_reload); }
	@echo "left as they are: $(ROOT)/etc/snn-detect and $(ROOT)/var/lib/snn-detect"

# With Debian's own Python, so that the package's environment finds it on the machine where it is unpacked.
DEB_PYTHON := /usr/bin/python3
DEB_ROOT := build/deb
DEB_DOCUMENTS := /usr/share/doc/snn-detect
DEB_PACKING ?= -Zxz -z1
DEB_VERSION ?= $(VERSION)
DEB_ARCHITECTURE ?= $$(dpkg --print-architecture)
# Who builds it answers for it; the variables are those of Debian's own tools.
DEB_MAINTAINER ?= $${DEBFULLNAME:-builder of this package} <$${DEBEMAIL:-root@$$(hostname)}>
deb:
	@rm -rf $(DEB_ROOT)
	@$(MAKE) --no-print-directory install DESTDIR=$(DEB_ROOT) PREFIX=/usr PYTHON=$(DEB_PYTHON)
	@install -d $(DEB_ROOT)/DEBIAN $(DEB_ROOT)$(DEB_DOCUMENTS)
	@install -m 644 LICENSE $(DEB_ROOT)$(DEB_DOCUMENTS)/copyright
	@gzip -n9c CHANGELOG.md >$(DEB_ROOT)$(DEB_DOCUMENTS)/changelog.gz
	@chmod 644 $(DEB_ROOT)$(DEB_DOCUMENTS)/changelog.gz
	@install -m 755 systemd/debian/postinst systemd/debian/prerm systemd/debian/postrm $(DEB_ROOT)/DEBIAN
	@install -m 644 systemd/debian/conffiles $(DEB_ROOT)/DEBIAN
	@sed -e 's/@VERSION@/$(DEB_VERSION)/' -e "s/@MAINTAINER@/$(DEB_MAINTAINER)/" -e "s/@ARCHITECTURE@/$(DEB_ARCHITECTURE)/" \
	  -e "s/@OF_DEBIAN@/$(if $(ARMHF),$(COMMA) $(subst $(SPACE),$(COMMA) ,$(ARMHF_PACKAGES)))/" \
	  -e "s/@SIZE@/$$(du -sk $(DEB_ROOT) | cut -f1)/" \
	  -e "s/@PYTHON@/$$($(DEB_PYTHON) -c 'import sys; print("3.%d" % sys.version_info[1])')/" \
	  -e "s/@NEXT_PYTHON@/$$($(DEB_PYTHON) -c 'import sys; print("3.%d" % (sys.version_info[1] + 1))')/" \
	  systemd/debian/control >$(DEB_ROOT)/DEBIAN/control
	@dpkg-deb --root-owner-group $(DEB_PACKING) --build $(DEB_ROOT) build

# For all releases of Python and all architectures at once. The releases in the file stay as long as they fit.
lock: build/lock.txt
	@cp $< systemd/requirements.txt

check-lock: build/lock.txt
	@for file in systemd/requirements.txt $<; do grep -v -- --hash $$file >$<.$$(basename $$file); done; \
	  diff -u $<.requirements.txt $<.lock.txt || { echo "make: the lock file is not that of pyproject.toml; run: make lock" >&2; exit 1; }

.PHONY: build/lock.txt
build/lock.txt: $(BUILDING)/.installed
	@$(call install,$(BUILDING)) "uv>=0.7"
	@mkdir -p build && $(if $(UPGRADE),rm -f $@,cp systemd/requirements.txt $@)
	@echo "$(BUILD_REQUIREMENT)" | $(BUILDING)/bin/uv pip compile --quiet pyproject.toml - --extra mqtt --extra metrics --extra web \
	  --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" --output-file $@

BUILD_REQUIREMENT := $(shell sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml)

$(BUILDING)/.installed:
	$(call create_venv,$(BUILDING))
	@touch $@

# Zig's compiler comes from PyPI and has the headers of every glibc: the wheels run from glibc 2.17 (2012) on.
ZIG := ziglang==0.17.1
WHEELS := x86_64-linux-gnu.2.17=manylinux_2_17_x86_64 aarch64-linux-gnu.2.17=manylinux_2_17_aarch64 \
  arm-linux-gnueabihf.2.17=manylinux_2_17_armv7l
wheels: $(BUILDING)/.zig
	@rm -rf build/wheels
	@zig=$$(echo $(abspath $(BUILDING))/lib/python3*/site-packages/ziglang/zig); for pair in $(WHEELS); do \
	  echo "making the wheel for $${pair#*=}"; rm -rf $(LEFT_BY_BUILDS); \
	  ZIG_GLOBAL_CACHE_DIR=$(abspath $(BUILDING))/zig ZIG_LOCAL_CACHE_DIR=$(abspath $(BUILDING))/zig \
	  CC="$$zig cc -target $${pair%=*}" SNN_CORE_REQUIRED=1 SNN_WHEEL_PLATFORM=$${pair#*=} \
	  $(call install,$(BUILDING),wheel) --no-deps --wheel-dir build/wheels . || exit 1; \
	done

$(BUILDING)/.zig: $(BUILDING)/.installed
	@echo "installing $(ZIG) into $(BUILDING)"
	@$(call install,$(BUILDING)) $(ZIG)
	@touch $@

# SKIP=arm64,armhf leaves out what is slow under qemu: the table then says so.
RELEASE ?= build/release/$(VERSION)
ROOTS ?= build/roots
SKIP ?=
release: $(BUILDING)/.zig $(RUNTIME)/.installed
	@{ command -v debootstrap && command -v qemu-arm-static; } >/dev/null || \
	  $(call install_packages,debootstrap qemu-user-static) || \
	  { echo "make: as root, run: apt-get install debootstrap qemu-user-static" >&2; exit 1; }
	@$(RUNTIME)/bin/python -m tests.release.release --folder $(RELEASE) --roots $(ROOTS) --building $(BUILDING) \
	  --skip "$(SKIP)" --result tests/release/result.json

check-wheels: wheels $(TESTING)/.installed
	SNN_TEST_WHEELS=$(abspath build/wheels) $(TESTING)/bin/python -m pytest -n 0 tests/test_wheels.py

check-arm64 check-armhf: wheels $(RUNTIME)/.installed
	@command -v qemu-arm-static >/dev/null || $(call install_packages,qemu-user-static) || \
	  { echo "make: as root, run: apt-get install qemu-user-static" >&2; exit 1; }
	@$(RUNTIME)/bin/python tests/check_processor.py $(@:check-%=%)

# With the Python of that release and the newest packages for it, in some forty minutes.
check-debian-13: $(RUNTIME)/.installed
	@command -v debootstrap >/dev/null || $(call install_packages,debootstrap) || \
	  { echo "make: as root, run: apt-get install debootstrap" >&2; exit 1; }
	@$(RUNTIME)/bin/python -m tests.check_debian --suite trixie --root $(abspath $(ROOTS))/test-trixie

HOURS ?= 1000
check-archive: $(TESTING)/.installed
	$(TESTING)/bin/python -m tests.detector.archive.check_archive --hours $(HOURS) --folder build/archive \
	  --result tests/detector/archive/check_archive.json

# Home Assistant gets a root of its own below HOME_ASSISTANT, which is kept; logs and pictures go there, too.
HOME_ASSISTANT ?= build/home-assistant
GUITAR ?= ../shared/data/instruments/acoustic_guitar/35039ae1.flac
check-home-assistant: $(TESTING)/.installed test-programs
	@command -v debootstrap >/dev/null || $(call install_packages,debootstrap) || \
	  { echo "make: as root, run: apt-get install debootstrap" >&2; exit 1; }
	$(TESTING)/bin/python -m tests.home_assistant.check --folder $(HOME_ASSISTANT) --sound $(GUITAR) \
	  --result tests/home_assistant/result.json
bench-sources: $(TESTING)/.installed
	$(TESTING)/bin/python -m tests.bench.source_cost --out build/bench-sources.json

SOAK_HOURS ?= 24
soak: $(TESTING)/.installed test-programs
	$(TESTING)/bin/python -m tests.bench.soak --hours $(SOAK_HOURS) --result tests/bench/soak.json

bench-instructions: $(TESTING)/.installed
	@command -v valgrind >/dev/null || $(call install_packages,valgrind) || \
	  { echo "make: as root, run: apt-get install valgrind" >&2; exit 1; }
	$(TESTING)/bin/python -m tests.bench.instructions --out tests/bench/instructions.json

bench-streams: $(TESTING)/.installed test-programs
	$(TESTING)/bin/python -m tests.bench.stream_cost

NODE_RED := node-red@4.1.15
check-node-red: $(TESTING)/.installed test-programs
	@command -v npm >/dev/null || $(call install_packages,nodejs npm) || \
	  { echo "make: as root, run: apt-get install nodejs npm" >&2; exit 1; }
	@npm install --silent --no-audit --no-fund --ignore-scripts --prefix build/node-red $(NODE_RED)
	$(TESTING)/bin/python -m tests.node_red build/node-red

# SOUND names recordings of 10 s or more together, to compare on beside the demo scene.
check-simulators: $(TESTING)/.installed
	@$(TESTING)/bin/python tests/firmware_export/nir/simulators.py build/simulators $(SOUND)

readme-table: $(TESTING)/.installed
	@$(TESTING)/bin/python -m models.evaluation.class_table README.md

picture: $(TESTING)/.installed test-programs
	@$(TESTING)/bin/python -m tests.detector.web.picture

# Where PyPI has no wheel for this release of Python, pip compiles. Before test-programs: one apt-get at a time.
build-programs:
	@{ command -v c++ && $(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'; } \
	  >/dev/null 2>&1 || $(call install_packages,g++ python3-dev) || \
	  echo "make: where packages have to be compiled, this fails; as root, run: apt-get install g++ python3-dev"

test-programs: build-programs
	@dpkg-query --show $(TEST_PROGRAMS) >/dev/null 2>&1 || $(call install_packages,$(TEST_PROGRAMS)) || \
	  echo "make: without $(TEST_PROGRAMS) some tests are skipped; install them for all tests"

install = $(1)/bin/python -m pip $(or $(2),install) -qq --disable-pip-version-check
# A file that was removed would otherwise be in the next wheel, and a library in that of another processor.
LEFT_BY_BUILDS = build/lib* build/temp* build/bdist*
systemd_reload = { ! test -d /run/systemd/system || systemctl daemon-reload; }

# Debian keeps what venv needs in a package of its own.
define create_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "make: this needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call install_packages,python3-venv) || \
  { echo "make: $(PYTHON) cannot create environments; as root, run: apt-get install python3-venv" >&2; exit 1; }
@$(PYTHON) -m venv $(1)
@command -v $(firstword $(CC)) >/dev/null || $(call install_packages,gcc libc6-dev) || \
  echo "make: there is no C compiler, so onnxruntime will run the network; for the faster C core, as root, run: apt-get install gcc libc6-dev"
endef

# Only root may, and only where there is apt-get; lists of packages are fetched when those here do not suffice.
define install_packages
{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing $(1)" && \
  { $(APT_INSTALL) $(1) >/dev/null 2>&1 || { apt-get update -qq && $(APT_INSTALL) $(1) >/dev/null; }; }; }
endef
APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -qq
