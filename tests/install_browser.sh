#!/bin/sh
# Installs what the browser tests need, Debian's chromium and chromium-driver, where it may; else says so in one
# line, and the tests that need a browser are skipped. Never fails: the other tests need no browser.

if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
wanted="the browser tests need Debian's packages chromium and chromium-driver"
if ! command -v apt-get >/dev/null; then
    echo "$wanted, and there is no apt-get here: they will be skipped" >&2
    exit 0
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
    as_root="sudo -n"
    if ! $as_root true 2>/dev/null; then
        echo "$wanted: sudo apt-get install chromium chromium-driver; without them they will be skipped" >&2
        exit 0
    fi
fi
log=$(mktemp)
if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y \
    --no-install-recommends -o DPkg::Lock::Timeout=120 chromium chromium-driver; } >"$log" 2>&1; then
    echo "$wanted; installing them failed, so they will be skipped: $(grep '^E:' "$log" | head -n 1)" >&2
fi
rm -f "$log"
