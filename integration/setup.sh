#!/bin/sh
# Installs what the tests need beyond Go: Debian packages and two npm packages.
#
# As root it installs what is missing and says what. As anyone else it says
# what to type and goes on: the tests that miss something skip, and say so.
# With CI=true something missing is a failure instead. When everything is
# there it takes a fraction of a second, so `make test` runs it each time.
set -eu
cd "$(dirname "$0")"

# Debian puts daemons where the PATH of a plain user does not look.
PATH=$PATH:/usr/sbin:/sbin

# PROGRAM PACKAGE, a line each. Packages that are there are known by their
# programs, which also holds for systems that are not Debian.
programs='
gcc gcc
chromium chromium
Xvnc tigervnc-standalone-server
xterm xterm
squid squid
tinyproxy tinyproxy
nginx nginx-light
haproxy haproxy
redis-server redis-server
redis-cli redis-tools
vncsnapshot vncsnapshot
nc netcat-openbsd
sshd openssh-server
ssh openssh-client
scp openssh-client
ssh-keygen openssh-client
curl curl
node nodejs
npm npm
'

missing() {
	echo "$programs" | while read -r program package; do
		[ -z "$program" ] || command -v "$program" >/dev/null || echo "$package"
	done
	# The race detector links against the C library.
	[ -e /usr/include/stdlib.h ] || echo libc6-dev
	# Debian's python3 by its path: another one in PATH has other modules.
	/usr/bin/python3 -c 'import websocket' 2>/dev/null || echo python3-websocket
	/usr/bin/python3 -c 'import websockets' 2>/dev/null || echo python3-websockets
}

# A package that was just installed must not start a daemon on this machine:
# Debian asks policy-rc.d, so for the time of the installation it says no.
policy=/usr/sbin/policy-rc.d
saved=$policy.wstun-saved

forbid_daemons() {
	# $saved is still there only if an earlier run was killed: then it is the
	# machine's own and $policy is ours.
	if [ -e $policy ] && [ ! -e $saved ]; then
		mv $policy $saved
	fi
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
}

allow_daemons() {
	rm -f $policy
	if [ -e $saved ]; then
		mv $saved $policy
	fi
}

# apt waits for another apt, and for a network that is slow for a moment.
apt='apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3'

install_packages() { # PACKAGE...
	echo "setup: installing $*"
	trap allow_daemons EXIT
	trap 'exit 1' HUP INT TERM # so that the line above happens
	forbid_daemons
	export DEBIAN_FRONTEND=noninteractive
	$apt update && $apt install -y --no-install-recommends "$@" ||
		echo "setup: apt-get failed" >&2 # what is missing is said below
	allow_daemons
	trap - EXIT HUP INT TERM
}

packages=$(missing | sort -u | tr '\n' ' ')
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	# shellcheck disable=SC2086 # a list
	install_packages $packages
	packages=$(missing | sort -u | tr '\n' ' ')
fi
if [ -n "$packages" ]; then
	echo "setup: some programs that the tests use are missing. On Debian, type" >&2
	echo "    sudo apt-get install --no-install-recommends $packages" >&2
fi

# npm runs only if the lock file is another than the one that was installed.
installed=node_modules/.wstun-installed
if ! cmp -s package-lock.json $installed; then
	if command -v npm >/dev/null; then
		echo "setup: installing the packages of integration/package-lock.json"
		if npm ci --ignore-scripts --no-audit --no-fund; then
			cp package-lock.json $installed
		fi
	else
		echo "setup: with npm installed, type: make test" >&2
	fi
fi
cmp -s package-lock.json $installed || packages="$packages integration/node_modules"

if [ -n "$packages" ] && [ "${CI:-}" = true ]; then
	echo "setup: missing, and CI=true allows nothing to be: $packages" >&2
	exit 1
fi
