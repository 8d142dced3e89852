#!/bin/sh
# Installs Milepost from this checkout as a service, or upgrades the one that is installed.
#
#   sudo systemd/install.sh              installs or upgrades; said again, it changes nothing
#   sudo systemd/install.sh --rollback   goes back to the version before
#
# /opt/milepost/releases/VERSION   a Python environment, the units and the docs of a version
# /opt/milepost/current, previous  links to the version at work and to the one before
# /etc/milepost/config.yaml        the configuration; one that is there is left alone, a new one waits for your pages
# /etc/credstore                   tokens and secrets, which only root reads
set -eu
umask 022
cd "$(dirname "$0")/.."

opt=/opt/milepost
units=/etc/systemd/system

say() { echo "install.sh: $*"; }
die() { say "$*" >&2; exit 1; }

# Names what is in this checkout: the version, and a hash of all that is installed.
name_release() {
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
    content=$(find daemon migrations docs systemd requirements.lock pyproject.toml -type f ! -name '*.pyc' -exec sha256sum {} + |
        sort -k 2 | sha256sum | cut -c 1-8)
    echo "$version-$content"
}

# Builds a release beside the others. Its link to the command comes last: without it, a build was cut short.
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

point() { # LINK RELEASE: in one step, so that there is always something behind the link
    ln -sfn "releases/$2" "$opt/$1.new"
    mv -T "$opt/$1.new" "$opt/$1"
}

named() { basename "$(readlink "$opt/$1" || true)"; }

lay_units() {
    cd "$opt/current/systemd"
    install -m 644 -- *.service *.timer "$units/"
    install -D -m 755 milepost /usr/local/bin/milepost
    if [ "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -ge 254 ]; then
        install -D -m 644 growing-delay.conf "$units/milepost.service.d/10-growing-delay.conf"
        install -D -m 644 growing-delay.conf "$units/milepost@.service.d/10-growing-delay.conf"
    fi
    systemctl daemon-reload
}

lay_configuration() {
    install -d -m 755 /etc/milepost
    install -d -m 700 /etc/credstore
    [ -e /etc/milepost/config.yaml ] && return
    # For real pages, so that nothing starts until there are some: a service is not to fill a database with invented people.
    sed -e 's|^  # url: sqlite:///milepost\.db$|  url: sqlite:////var/lib/milepost/milepost.db|' \
        -e 's|^  kind: simulator .*|  kind: facebook|' "$opt/current/config.yaml" >/etc/milepost/config.yaml
}

# Says what is to be done before the service is of use.
say_next() {
    if milepost config check 2>/dev/null | grep -q '^It copies a simulated world'; then
        say "/etc/milepost/config.yaml is for the simulated world, whose people are invented: set source.kind: facebook"
    fi
    [ -n "$was" ] && return
    say "next: 1. fill in pages in /etc/milepost/config.yaml, with the token in /etc/credstore/milepost.access-token;"
    say "      2. milepost config check --online; 3. systemctl enable --now milepost. Until then it does not start"
}

# Puts a release to work, and restarts what runs.
switch() {
    point current "$1"
    lay_units
    lay_configuration
    systemctl try-restart milepost.service 'milepost@*.service' ||
        die "$1 does not start: see \`journalctl -u milepost\`, and go back with $opt/current/systemd/install.sh --rollback"
    say "$1 is installed"
}

[ "$(id -u)" = 0 ] || die "run it as root"
was=$(named current)
case ${1-} in
    '')
        new=$(name_release)
        mkdir -p "$opt/releases"
        build "$new"
        if [ -n "$was" ] && [ "$was" != "$new" ]; then point previous "$was"; fi
        switch "$new"
        for each in "$opt"/releases/*; do
            case ${each##*/} in "$new" | "$(named previous)") ;; *) rm -rf "$each" ;; esac
        done
        say_next
        ;;
    --rollback)
        before=$(named previous)
        [ -n "$before" ] || die "there is no version before $was"
        point previous "$was"
        switch "$before"
        ;;
    *) die "usage: systemd/install.sh [--rollback]" ;;
esac
