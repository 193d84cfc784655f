#!/bin/sh
# Breaks internal/line in one place at a time, in a copy of the module, and runs
# its tests: mutants.sh [NAME], where NAME is a part of the names to try. What
# the tests must see and do not is printed as SURVIVED, and the script fails. A
# mutation that does not fit the code any more fails it as well.
set -eu
cd "$(dirname "$0")/.."
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/internal"
cp go.mod go.sum "$tree"
cp -R internal/line "$tree/internal"

only=${1-}
failed=0
count=0

# run tests the copy. The model has few runs, and the whole a bounded time: one
# that hangs is seen as well.
run() {
	(cd "$tree" && go test -vet=off -count=1 -short -failfast -timeout 40s ./internal/line -args -runs=400) >"$tree/log" 2>&1
}

# mutant FILE NAME SED [harmless] changes one line, or fails.
mutant() {
	case $2 in *"$only"*) ;; *) return 0 ;; esac
	count=$((count + 1))
	file=$tree/internal/line/$1
	cp "$file" "$tree/before"
	sed -e "$3" "$tree/before" >"$file"
	lines=$(diff "$tree/before" "$file" | grep -c '^>' || true)
	if [ "$lines" != 1 ]; then
		echo "UNFIT     $1: $2: $lines lines changed"
		failed=1
	elif ! (cd "$tree" && go test -vet=off -run "^\$" ./internal/line) >"$tree/log" 2>&1; then
		echo "UNFIT     $1: $2: it does not compile"
		cat "$tree/log"
		failed=1
	elif run; then
		case ${4-} in
		harmless) echo "survived  $1: $2, which is harmless by design" ;;
		*)
			echo "SURVIVED  $1: $2"
			failed=1
			;;
		esac
	else
		by=$(grep -m 1 -o -e '--- FAIL: [A-Za-z]*' -e 'panic: test timed out' -e 'panic: .*' "$tree/log" | head -n 1)
		echo "killed    $1: $2 ($by)"
	fi
	cp "$tree/before" "$file"
}

if [ -z "$only" ] && ! run; then
	cat "$tree/log"
	echo "mutants: the tests fail before anything is broken"
	exit 1
fi

# Offsets.
mutant send.go 'next is not reset on a new carrier' 's/s\.sent, s\.next = s\.una, s\.head$/_ = s.head/'
mutant send.go 'a new carrier begins behind una' 's/s\.sent, s\.next = s\.una, s\.head$/s.sent, s.next = min(s.una+1, s.end), s.head/'
mutant send.go 'a new carrier begins at what the peer said, and not at una' 's/if peerRcv > s\.una {/if peerRcv != s.una {/'
mutant send.go 'an acknowledgement frees too much' 's/if g\.off+uint64(g\.size()) > ack {/if g.off > ack {/'
mutant send.go 'an acknowledgement of what was never sent counts' 's/if ack > s\.maxSent {/if false \&\& ack > s.maxSent {/'
mutant send.go 'an acknowledgement must not be above next' 's/if ack > s\.maxSent {/if ack > s.sent {/'
mutant pump.go 'an acknowledgement is ahead of what came' 's/f\.ack, f\.wnd = c\.in\.rcv, /f.ack, f.wnd = c.in.rcv+1, /'
mutant redial.go 'RESUME is ahead of what came' 's/epoch: c\.epoch, rcv: c\.in\.rcv, /epoch: c.epoch, rcv: c.in.rcv + 1, /'
mutant server.go 'RESUMED is ahead of what came' 's/epoch: m\.epoch, rcv: c\.in\.rcv, /epoch: m.epoch, rcv: c.in.rcv + 1, /'
mutant receive.go 'bytes that came twice are not dropped' 's/skip := r\.rcv - off$/skip := uint64(0)/'
mutant receive.go 'a gap is tolerated' 's/if off > r\.rcv {/if false \&\& off > r.rcv {/'
mutant attach.go 'a second gap is tolerated' 's/if c\.gap == c\.in\.rcv+1 {/if false {/'
mutant attach.go 'what was sent is forgotten with its carrier' 's/c\.since, c\.why = time\.Now(), err$/&; c.out.free(c.out.sent)/'

# Windows.
mutant flight.go 'the sender ignores the window' 's/return end <= s\.limit && (/return true \&\& (/'
mutant receive.go 'the receiver ignores the window' 's/; end > r\.limit {/; false \&\& end > r.limit {/'
mutant receive.go 'the window does not shrink as it fills' 's/room := r\.window - r\.held$/room := r.window/'
mutant receive.go 'what was granted is not remembered' 's/r\.limit = max(r\.limit, r\.rcv+uint64(n))$/_ = n/'
mutant receive.go 'short memory: the peer hears late of its room' 's/return minWindow \/ 4 .*$/return uint64(r.window \/ 4)/'

# Ends.
mutant sessions.go 'an ended session leaves no tombstone' 's/if c\.err == net\.ErrClosed && c\.drained()/if c.err == net.ErrClosed \&\& false/'
mutant pump.go 'CLOSE is not said again on a new carrier' 's/ && !c\.at\.closeSent && / \&\& !c.out.closeSent \&\& /'
mutant attach.go 'a session that nobody has taken up is kept' 's/c\.window = min(c\.window, orphanWindow)$/_ = orphanWindow/'
mutant redial.go 'CLOSED needs no proof' 's/if !hmac\.Equal(reject\.mac, /if false \&\& !hmac.Equal(reject.mac, /'
mutant server.go 'a session that ends while it is resumed is unknown' 's/grave = s\.graves\.find(m\.sid)$/_ = m.sid/'

# Who may.
mutant server.go 'an older attempt is let in' 's/case m\.epoch <= c\.epoch:$/case false:/'
mutant server.go 'RESUME needs no proof' 's/proven := hmac\.Equal/proven := true || hmac.Equal/'
mutant server.go 'another principal may resume' 's/ || owner != principal || / || false \&\& owner != principal || /'
mutant redial.go 'RESUMED needs no proof' 's/case !hmac\.Equal(mac, /case false \&\& !hmac.Equal(mac, /'
mutant server.go 'an offset that cannot be is accepted' 's/case m\.rcv > c\.out\.maxSent || /case false \&\& /'

# Carriers.
mutant attach.go 'the old carrier is not closed' 's/^	at\.car\.Abort(nil)$/	_ = at.car/'
mutant receive.go 'frames of an old carrier count' 's/errVoid; c\.at == at && c\.err == nil {/errVoid; c.at != nil \&\& c.err == nil {/' harmless
mutant live.go 'bytes received prove that the peer lives' 's/^	l\.lastRx = time\.Now()$/&; l.lastOK, l.waiting, l.pingAt = l.lastRx, time.Time{}, time.Time{}/'
mutant live.go 'probes put off the end of a dead carrier' 's/if l\.pingAt\.IsZero() || now\.Add.*{$/{/'
mutant live.go 'patience does not grow' 's/l\.patience = min(2\*l\.patience, 16)$/l.patience = 1/'
mutant attach.go 'frames do not get smaller on carriers that die young' 's/c\.out\.chunk = c\.out\.chunk, max(c\.out\.chunk\/2, minChunk)$/c.out.chunk = c.out.chunk, c.out.chunk/'
mutant send.go 'frames do not get smaller on slow carriers' 's/s\.chunk, c\.at\.quick = max(s\.chunk\/2, minChunk), 0$/c.at.quick = 0/'
mutant send.go 'frames do not get larger again' 's/s\.chunk = min(2\*s\.chunk, sendBlock)$/_ = s.chunk/'
mutant redial.go 'an attempt that fails swallows the acknowledgement' 's/^	rand\.Read(m\.nonce\[:\])$/&; c.in.acked()/'
mutant redial.go 'a lost carrier does not end the pause' 's/if r\.ours { .*$/if false {/'
mutant pump.go 'DETACH is not said if it comes during a write' 's/case detach != nil: .*$/case c.out.detach != nil:/'
mutant sessions.go 'a session that is about to begin is evicted' 's/ && c\.err == nil && !c\.since\.IsZero() }$/ \&\& c.err == nil }/'
mutant away.go 'GOAWAY is said only once' 's/^	s\.sayAway()$/	_ = s/'

[ "$count" -gt 0 ] || { echo "mutants: none is named like $only"; exit 1; }
exit $failed
