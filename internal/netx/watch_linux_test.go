package netx_test

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wstun/internal/netx"
)

// inNewNetwork reports whether this process has a network of its own, in which
// there is nothing but a loopback interface. If not it runs this test again in
// one that has.
func inNewNetwork(t *testing.T) bool {
	t.Helper()
	const marker = "WSTUN_TEST_NEW_NETWORK"
	if os.Getenv(marker) != "" {
		return true
	}
	t.Parallel() // it waits for its other self
	test, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), test, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 { // whoever may be root somewhere may have a network there
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skipf("NOT TESTED: this user may not make a network namespace: %v", err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "--- PASS: "+t.Name()+" ") {
		t.Errorf("in a network of its own: %v\n%s", err, &out)
	}
	return false
}

// kernel is asked to change what there is.
type kernel struct {
	*testing.T
	fd int
}

const loopback = 1 // the index of that interface, always

func newKernel(t *testing.T) *kernel {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	k := &kernel{t, fd}
	k.ask(netlinkMessage(unix.RTM_NEWLINK, 0, slices.Concat(make([]byte, 4), native(loopback), native(unix.IFF_UP), native(unix.IFF_UP))))
	return k
}

// ask returns when the kernel has done it.
func (k *kernel) ask(message []byte) {
	k.Helper()
	flags := binary.NativeEndian.Uint16(message[6:]) | unix.NLM_F_REQUEST | unix.NLM_F_ACK
	binary.NativeEndian.PutUint16(message[6:], flags)
	if err := unix.Sendto(k.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		k.Fatal(err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(k.fd, b, 0)
	if err != nil {
		k.Fatal(err)
	}
	const header = unix.SizeofNlMsghdr
	if n < header+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		k.Fatalf("the kernel answers %x", b[:n])
	}
	if errno := -int32(binary.NativeEndian.Uint32(b[header:])); errno != 0 {
		k.Fatalf("the kernel refuses %x: %v", message, syscall.Errno(errno))
	}
}

// address adds or removes one; it lives for so many seconds.
func (k *kernel) address(kind uint16, prefix string, seconds uint32) {
	k.Helper()
	life := netlinkAttribute(unix.IFA_CACHEINFO, slices.Concat(native(seconds), native(seconds), native(0), native(0)))
	k.ask(addressMessage(kind, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, prefix, unix.IFA_F_NODAD, loopback, life))
}

func (k *kernel) addAddress(prefix string) { k.Helper(); k.address(unix.RTM_NEWADDR, prefix, forever) }
func (k *kernel) removeAddress(prefix string) {
	k.Helper()
	k.address(unix.RTM_DELADDR, prefix, forever)
}

const forever = 1<<32 - 1

// route adds or removes one of the loopback interface.
func (k *kernel) route(kind, flags uint16, prefix string, table byte, metric uint32) {
	k.Helper()
	k.ask(routeMessage(kind, flags, prefix, table, metric, loopback))
}

// follow runs n until the test ends. What it reports comes out of the channel.
func follow(t *testing.T, n interface {
	Run(context.Context, func(string)) error
}) <-chan string {
	said := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.Run(ctx, func(why string) { said <- why }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(generous):
			t.Error("does not end")
		}
		if len(said) > 0 {
			t.Errorf("it also said %q", <-said)
		}
	})
	return said
}

func expect(t *testing.T, said <-chan string, want string) {
	t.Helper()
	select {
	case got := <-said:
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(generous):
		t.Fatalf("nothing said, want %q", want)
	}
}

// Each step that counts is one report, of its own words: a report too many
// would be taken for the next step's, which is of the other kind.
func TestWatchFollowsTheKernel(t *testing.T) {
	if !inNewNetwork(t) {
		return
	}
	const newRoute, oldRoute, create, replace = unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.NLM_F_CREATE, unix.NLM_F_REPLACE
	k := newKernel(t)
	k.addAddress("2001:db8::1/64")
	k.route(newRoute, create, "::/0", unix.RT_TABLE_MAIN, 7)
	n, err := netx.OpenNetlink()
	if err != nil {
		t.Fatal(err)
	}
	said := follow(t, n)
	for _, step := range []struct {
		name string
		do   func()
		want string // empty: nothing of its own
	}{
		{"a router advertises what there was at first", func() {
			k.address(unix.RTM_NEWADDR, "2001:db8::1/64", 1000)
			k.route(newRoute, create|replace, "::/0", unix.RT_TABLE_MAIN, 7)
		}, ""},
		{"an address", func() { k.addAddress("192.0.2.1/24") }, addressChanged},
		{"a default route", func() { k.route(newRoute, create, "0.0.0.0/0", unix.RT_TABLE_MAIN, 1) }, routeChanged},
		{"other routes", func() {
			k.route(newRoute, create, "198.51.100.0/24", unix.RT_TABLE_MAIN, 1)
			k.route(newRoute, create, "0.0.0.0/0", 100, 1)
		}, ""},
		{"the address goes", func() { k.removeAddress("192.0.2.1/24") }, addressChanged},
		{"addresses of the machine and the link", func() {
			k.addAddress("127.0.0.9/32")
			k.addAddress("169.254.9.9/16")
			k.addAddress("fe80::9/64")
			k.removeAddress("fe80::9/64")
		}, ""},
		{"a default route of IPv6", func() { k.route(newRoute, create, "::/0", unix.RT_TABLE_MAIN, 8) }, routeChanged},
		{"a router advertises it again", func() { k.route(newRoute, create|replace, "::/0", unix.RT_TABLE_MAIN, 8) }, ""},
		{"an address of IPv6", func() { k.address(unix.RTM_NEWADDR, "2001:db8::2/64", 1000) }, addressChanged},
		{"a router advertises it again", func() { k.address(unix.RTM_NEWADDR, "2001:db8::2/64", 2000) }, ""},
		{"the default route of IPv6 goes", func() { k.route(oldRoute, 0, "::/0", unix.RT_TABLE_MAIN, 8) }, routeChanged},
		{"the address of IPv6 goes", func() { k.removeAddress("2001:db8::2/64") }, addressChanged},
		{"the default route goes", func() { k.route(oldRoute, 0, "0.0.0.0/0", unix.RT_TABLE_MAIN, 1) }, routeChanged},
		{"another network", func() {
			k.removeAddress("2001:db8::1/64")
			k.addAddress("2001:db8:1::1/64")
			k.addAddress("192.0.2.2/24")
			k.route(newRoute, create, "0.0.0.0/0", unix.RT_TABLE_MAIN, 1)
		}, bothChanged},
		{"and its default route goes", func() { k.route(oldRoute, 0, "0.0.0.0/0", unix.RT_TABLE_MAIN, 1) }, routeChanged},
	} {
		t.Log(step.name)
		step.do()
		if step.want != "" {
			expect(t, said, step.want)
		}
	}
}

// What the socket could not hold is a change, and what there is is listed anew.
func TestWatchIsOverrun(t *testing.T) {
	if !inNewNetwork(t) {
		return
	}
	k := newKernel(t)
	k.addAddress("2001:db8::1/64")
	n, err := netx.OpenNetlink()
	if err != nil {
		t.Fatal(err)
	}
	for range 500 { // far more than fits
		k.addAddress("192.0.2.1/24")
		k.removeAddress("192.0.2.1/24")
	}
	k.addAddress("2001:db8::2/64")
	said := follow(t, n)
	expect(t, said, "much has changed in this machine's network")
	k.address(unix.RTM_NEWADDR, "2001:db8::1/64", 1000)
	k.address(unix.RTM_NEWADDR, "2001:db8::2/64", 1000)
	k.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, "0.0.0.0/0", unix.RT_TABLE_MAIN, 1)
	expect(t, said, routeChanged)
}

// All together, as a program has it.
func TestWatchSeesAnAddressComeAndGo(t *testing.T) {
	if !inNewNetwork(t) {
		return
	}
	k := newKernel(t)
	ctx, cancel := context.WithCancel(t.Context())
	said, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		netx.Watch(ctx, func(why string) { said <- why })
	}()
	// Nobody tells when it has begun to look: until then a change is none.
	for deadline := time.Now().Add(generous); len(said) == 0; {
		k.addAddress("192.0.2.1/24")
		k.removeAddress("192.0.2.1/24")
		select {
		case why := <-said:
			said <- why
		case <-time.After(time.Second):
			if time.Now().After(deadline) {
				t.Fatal("nothing said")
			}
		}
	}
	expect(t, said, addressChanged)
	k.addAddress("192.0.2.1/24")
	expect(t, said, addressChanged)
	k.removeAddress("192.0.2.1/24")
	expect(t, said, addressChanged)
	cancel()
	<-done
}
