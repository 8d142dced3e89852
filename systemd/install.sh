#!/bin/sh
# Install Milepost from this checkout as a service, or upgrade the installed one.
#
#   sudo systemd/install.sh              install or upgrade; running it again changes nothing
#   sudo systemd/install.sh --rollback   go back to the previous version
#
# /opt/milepost/releases/VERSION   a Python environment, the units and the docs of a version
# /opt/milepost/current, previous  links to the current and the previous version
# /etc/milepost/config.yaml        the configuration; an existing one is kept, a new one needs your pages
# /etc/credstore                   tokens and secrets, readable only by root
set -eu
umask 022
cd "$(dirname "$0")/.."

opt=/opt/milepost
units=/etc/systemd/system

say() { echo "install.sh: $*"; }
die() { say "$*" >&2; exit 1; }

# Print a name for this checkout: the version, and a hash of everything that is installed.
name_release() {
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' daemon/milepost/__init__.py)
    content=$(find daemon migrations docs systemd config.yaml requirements.lock pyproject.toml hatch_build.py -type f \
        ! -name '*.pyc' -exec sha256sum {} + |
        sort -k 2 | sha256sum | cut -c 1-8)
    echo "$version-$content"
}

# Build a release beside the others. The link to its command is made last: without it, the build was interrupted.
build() {
    release=$opt/releases/$1
    [ -e "$release/milepost" ] && return
    say "building $release"
    rm -rf "$release"
    python3 -m venv "$release"
    "$release/bin/pip" install -q --disable-pip-version-check --require-hashes -r requirements.lock
    "$release/bin/pip" install -q --disable-pip-version-check --no-deps --no-build-isolation .
    cp -R docs systemd config.yaml "$release/"
    ln -s bin/milepost "$release/milepost"
}

# Point LINK to RELEASE atomically, so that the link is never dangling.
point() {
    ln -sfn "releases/$2" "$opt/$1.new"
    mv -T "$opt/$1.new" "$opt/$1"
}

release_of() { basename "$(readlink "$opt/$1" || true)"; }

install_units() {
    cd "$opt/current/systemd"
    install -m 644 -- *.service *.timer "$units/"
    install -D -m 755 milepost /usr/local/bin/milepost
    if [ "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -ge 254 ]; then
        install -D -m 644 growing-delay.conf "$units/milepost.service.d/10-growing-delay.conf"
        install -D -m 644 growing-delay.conf "$units/milepost@.service.d/10-growing-delay.conf"
    fi
    systemctl daemon-reload
}

install_configuration() {
    install -d -m 755 /etc/milepost
    install -d -m 700 /etc/credstore
    [ -e /etc/milepost/config.yaml ] && return
    # For real pages, so that it does not start until there are some: a service must not fill a database with invented people.
    sed -e 's|^  # url: sqlite:///milepost\.db$|  url: sqlite:////var/lib/milepost/milepost.db|' \
        -e 's|^  kind: simulator .*|  kind: facebook|' "$opt/current/config.yaml" >/etc/milepost/config.yaml
}

# Say what is left to do before the service can start.
print_next_steps() {
    if milepost config check 2>/dev/null | grep -q '^It copies a simulated world'; then
        say "/etc/milepost/config.yaml uses the simulator, whose people are invented: set source.kind: facebook"
    fi
    [ -n "$was" ] && return
    say "next: 1. fill in pages in /etc/milepost/config.yaml, and put the token into /etc/credstore/milepost.access-token;"
    say "      2. milepost config check --online; 3. systemctl enable --now milepost"
}

# Switch to a release, and restart running services.
switch() {
    point current "$1"
    install_units
    install_configuration
    systemctl try-restart milepost.service 'milepost@*.service' ||
        die "$1 failed to start: see \`journalctl -u milepost\`; to go back, run $opt/current/systemd/install.sh --rollback"
    say "$1 is installed"
}

[ "$(id -u)" = 0 ] || die "must be run as root"
was=$(release_of current)
case ${1-} in
    '')
        new=$(name_release)
        mkdir -p "$opt/releases"
        build "$new"
        if [ -n "$was" ] && [ "$was" != "$new" ]; then point previous "$was"; fi
        switch "$new"
        for each in "$opt"/releases/*; do
            case ${each##*/} in "$new" | "$(release_of previous)") ;; *) rm -rf "$each" ;; esac
        done
        print_next_steps
        ;;
    --rollback)
        before=$(release_of previous)
        [ -n "$before" ] || die "there is no previous version"
        point previous "$was"
        switch "$before"
        ;;
    *) die "usage: systemd/install.sh [--rollback]" ;;
esac
