# Thin: cargo builds and tests, this puts things where they belong.

PREFIX = /usr/local
CARGO = cargo
# Options of the benchmark: --rounds N, --seconds S, --only NAME,...
BENCH =
CARGO_TARGET_DIR ?= target
# Of the soak test: seconds, and a seed.
SOAK = 600
# Kinds of small machines, as rustc names them: all if none is given.
TARGET =
GUESTS = mipsel arm64 amd64
unstripped = $(CARGO_TARGET_DIR)/unstripped
RECORD =
# su leaves the administrator's directories out.
export PATH := $(PATH):/usr/sbin:/sbin

names = jtunneld jtunnel-client
built = $(addprefix $(CARGO_TARGET_DIR)/$(addsuffix /,$(CARGO_BUILD_TARGET))release/,$(names))

prefix = $(DESTDIR)$(PREFIX)
sbin = $(prefix)/sbin
man7 = $(prefix)/share/man/man7
man8 = $(prefix)/share/man/man8
examples = $(prefix)/share/examples/jtunnel
doc = $(prefix)/share/doc/jtunnel

build = $(CARGO) build --release --locked $(addprefix -p ,$(names))

boot = $(CARGO) run --quiet --locked -p jtunnel-tests --bin boot --

.PHONY: all install uninstall check demo bench scale soak clean
.PHONY: static static-all emulate boot-test boot-test-be icount size deb deb-test

all:
	$(build)

# Only what is missing is built here: install often runs as root, all need not.
$(built) &:
	$(build)

install: $(built)
	install -d $(sbin) $(man7) $(man8) $(examples) $(doc)
	install -m 755 $(built) $(sbin)
	install -m 644 man/jtunnel.7 $(man7)
	install -m 644 $(names:%=man/%.8) $(man8)
	cp -R man/examples/. $(examples)
	chmod -R u=rwX,go=rX $(examples)
	install -m 644 LICENSE README.md $(doc)
	sed -i 's|/usr/local/share/examples/|$(PREFIX)/share/examples/|; s|/usr/local/sbin/jtunnel|$(PREFIX)/sbin/jtunnel|' \
		$(man7)/jtunnel.7 $(names:%=$(man8)/%.8) $(doc)/README.md $(examples)/*.service

uninstall:
	rm -f $(addprefix $(sbin)/,$(names)) $(man7)/jtunnel.7 $(names:%=$(man8)/%.8)
	rm -rf $(examples) $(doc)

# Most tests wait most of the time: eight at once leave two cores room for what is timed.
check:
	tests/require.sh build check
	$(CARGO) test --workspace --locked -- --include-ignored --test-threads=8
	JTUNNEL_FLAGS=-O $(CARGO) test --locked -p jtunnel-tests -- --include-ignored --test-threads=8

demo:
	tests/demo.sh

bench:
	tests/require.sh build bench
	$(CARGO) run --profile measure --locked -p jtunnel-tests --bin bench -- $(BENCH) $(CARGO_TARGET_DIR)/bench.md

scale:
	tests/require.sh build bench
	$(CARGO) run --profile measure --locked -p jtunnel-tests --bin bench -- --scale $(BENCH) $(CARGO_TARGET_DIR)/scale.md

soak:
	tests/require.sh build check
	$(CARGO) run --profile measure --locked -p jtunnel-tests --bin soak -- $(SOAK)

# One static file of each program, for routers.
static:
	tests/require.sh static
	tests/embedded/static.sh $(TARGET)

# And of each target an archive that one carries to a router.
static-all: static
	tests/require.sh archive
	tests/embedded/archive.sh $(TARGET)

# The test suite on these files, by emulated processors on this machine's kernel.
emulate:
	tests/require.sh build check static emulate
	tests/embedded/static.sh -t $(TARGET)
	tests/embedded/emulate.sh $(TARGET)

# Whole routers, started from their /etc/rc.local.
boot-test: TARGET = mipsel-unknown-linux-musl aarch64-unknown-linux-musl x86_64-unknown-linux-musl
boot-test: static
	tests/require.sh build boot
	$(boot) $(GUESTS)

# Big endian: the first time it builds a kernel, which takes ten minutes.
boot-test-be:
	tests/require.sh build static boot boot-be
	tests/embedded/static.sh -t mips-unknown-linux-musl
	$(boot) mips

# What the programs cost; RECORD=--record to make the figures those to be kept to.
size: static all
	tests/require.sh build size
	CARGO_TARGET_DIR=$(unstripped) $(build) --config profile.release.strip=false
	$(CARGO) run --quiet --locked -p jtunnel-tests --bin size -- \
		$(dir $(firstword $(built))) $(CARGO_TARGET_DIR)/static $(unstripped)/release $(RECORD)

# Instructions and system calls for each packet, in a small machine that counts them.
icount: TARGET = aarch64-unknown-linux-musl
icount: static
	tests/require.sh build boot
	$(boot) icount

# A Debian package of all that install puts there, and of the units.
deb: all
	tests/require.sh build deb
	tests/package/deb.sh

# Installed into a fresh Debian, its units under its systemd, and removed again.
deb-test: deb
	tests/require.sh build deb-test
	$(CARGO) run --quiet --locked -p jtunnel-tests --bin package

clean:
	$(CARGO) clean
