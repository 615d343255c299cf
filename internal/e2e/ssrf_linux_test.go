package e2e

import (
	"bufio"
	"context"
	wire "encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// The tests of this file run in a network namespace of their own, which has nothing but
// loopback. A route makes every address there is one of loopback's: whatever Kapsel dials,
// a canary accepts and counts it, and nothing leaves the machine.

const insideNamespace = "KAPSEL_E2E_NAMESPACE"

// TestSSRF_B80_B98 checks that the real binary connects to no address that is not public,
// whether an endpoint names it, spells it oddly, resolves to it, changes to it between two
// look-ups or is redirected there. B-80 to B-91, B-96 and B-98 are tried in turn. It runs with
// Go's resolver only (CGO_ENABLED=0, as it is released) and with the system's beside it
// (CGO_ENABLED=1).
func TestSSRF_B80_B98(t *testing.T) {
	if os.Getenv(insideNamespace) != "" {
		prepareNamespace(t)
		everythingIsBlocked(t)
		return
	}
	for _, cgo := range []string{"0", "1"} {
		t.Run("CGO_ENABLED="+cgo, func(t *testing.T) {
			bin := program(t)
			if cgo == "1" {
				bin = filepath.Join(t.TempDir(), "kapsel")
				build := exec.Command("go", "build", "-o", bin, "github.com/kapsel-hq/kapsel/cmd/kapsel")
				build.Env = append(os.Environ(), "CGO_ENABLED=1")
				if out, err := build.CombinedOutput(); err != nil {
					t.Fatalf("build with cgo: %v\n%s", err, out)
				}
			}
			again := exec.Command(os.Args[0], "-test.run=^TestSSRF_B80_B98$", "-test.v", "-test.count=1", "-test.timeout=5m")
			again.Env = append(os.Environ(), insideNamespace+"="+bin)
			again.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
				Pdeathsig:   syscall.SIGKILL,
			}
			out, err := again.CombinedOutput()
			if err != nil && len(out) == 0 && os.Getuid() == 0 { // user namespaces may be off
				retry := exec.Command(again.Path, again.Args[1:]...)
				retry.Env = again.Env
				retry.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
				out, err = retry.CombinedOutput()
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

// prepareNamespace brings loopback up and gives it every address.
func prepareNamespace(t *testing.T) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatalf("bring lo up: %v", err)
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := routeAllToLoopback(family); err != nil {
			t.Fatalf("route all of family %d to lo: %v", family, err)
		}
	}
}

// routeAllToLoopback is `ip route add local default dev lo table local` for a family.
func routeAllToLoopback(family byte) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	message := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg+unix.SizeofRtAttr+4)
	*(*unix.NlMsghdr)(unsafe.Pointer(&message[0])) = unix.NlMsghdr{
		Len: uint32(len(message)), Type: unix.RTM_NEWROUTE, Seq: 1,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_REPLACE,
	}
	*(*unix.RtMsg)(unsafe.Pointer(&message[unix.SizeofNlMsghdr])) = unix.RtMsg{
		Family: family, Table: unix.RT_TABLE_LOCAL, Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_HOST, Type: unix.RTN_LOCAL,
	}
	attr := message[unix.SizeofNlMsghdr+unix.SizeofRtMsg:]
	*(*unix.RtAttr)(unsafe.Pointer(&attr[0])) = unix.RtAttr{Len: unix.SizeofRtAttr + 4, Type: unix.RTA_OIF}
	wire.NativeEndian.PutUint32(attr[unix.SizeofRtAttr:], 1) // lo is the first interface
	if err := unix.Sendto(s, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, reply, 0)
	if err != nil {
		return err
	}
	if code := int32(wire.NativeEndian.Uint32(reply[unix.SizeofNlMsghdr:n])); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// The public addresses of the namespace, and what is never to be reached.
var (
	public4 = netip.MustParseAddr("93.184.216.34")
	public6 = netip.MustParseAddr("2606:4700::1111")

	forbidden = []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9", "168.63.129.16", "169.254.169.254", "169.254.170.2",
		"172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.1.1", "192.175.48.1",
		"198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1",
		"2001:0:7f00:1::", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2620:4f:8000::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254",
		"fd20:ce::254", "fe80::1", "fec0::1", "ff02::1",
	}
	// Spellings that something between a browser and a kernel takes for a local address.
	spellings = []string{
		"http://2130706433/", "http://0177.0.0.1/", "http://017700000001/", "http://0x7f.1/", "http://0x7f000001/", "http://127.1/", "http://0/",
		"http://127.000.000.001/", "http://127.0.0.1./", "http://１２７.０.０.１/", "http://127。0。0。1/", "http://①②⑦.⓪.⓪.①/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
		"http://local\u00adhost/", "http://127.0.0.1\u200b/", "http://[::]/", "http://[::1]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::ffff:7f00:1]/",
		"http://[::1%25lo]/", "http://[fe80::1%25lo]/", "http://[::127.0.0.1]/", "http://localhost/", "http://localhost./", "http://LOCALHOST/",
		"http://foo.localhost/", "http://ip6-localhost/", "http://metadata.google.internal/", "http://instance-data/", "http://a.local/", "http://a.svc.cluster.local/",
		"http://good.example@127.0.0.1/", "http://good.example:80@127.0.0.1/", "http://127.0.0.1#@good.example/", "http://127.0.0.1\\.good.example/",
		"http:///127.0.0.1/", "http://%31%32%37.0.0.1/", "http://a@b@127.0.0.1/", "http://127.0.0.1:080/", "file:///etc/passwd", "gopher://127.0.0.1/",
		"unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "//127.0.0.1/", "http://127.0.0.1:65616/",
	}
	canaryPorts = []int{22, 80, 443, 3128, 8080}
)

// canaries accept connections to any address and remember which.
type canaries struct {
	kept atomic.Int64 // requests at /keep
	mu   sync.Mutex
	hits map[netip.AddrPort]int
}

func listenEverywhere(t *testing.T) *canaries {
	t.Helper()
	c := &canaries{hits: map[netip.AddrPort]int{}}
	for _, port := range canaryPorts {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go c.serve(conn)
			}
		}()
	}
	return c
}

// serve answers 200, or where the path says so with a redirect to what its query has. With
// the path /keep it takes more requests on the connection.
func (c *canaries) serve(conn net.Conn) {
	defer conn.Close()
	at := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	c.mu.Lock()
	c.hits[netip.AddrPortFrom(at.Addr().Unmap(), at.Port())]++
	c.mu.Unlock()
	reader := bufio.NewReader(conn)
	r, err := http.ReadRequest(reader)
	if err != nil { // TLS, most likely
		return
	}
	for r.URL.Path == "/keep" {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		c.kept.Add(1)
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary")
		if r, err = http.ReadRequest(reader); err != nil {
			return
		}
	}
	if status := strings.TrimPrefix(r.URL.Path, "/redirect/"); status != r.URL.Path {
		fmt.Fprintf(conn, "HTTP/1.1 %s Moved\r\nLocation: %s\r\nRefresh: 0; url=%[2]s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status, r.URL.Query().Get("to"))
		return
	}
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\ncanary")
}

// judge reports every connection that was not to a public address, and forgets all.
func (c *canaries) judge(t *testing.T, what string) (public int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, n := range c.hits {
		if at.Addr() == public4 || at.Addr() == public6 {
			public += n
		} else {
			t.Errorf("%s: %d connections to %s", what, n, at)
		}
	}
	clear(c.hits)
	return public
}

// names is a DNS server that is every nameserver there is. What a name's first label says is
// what it answers: a-ADDRESS (dots and colons as dashes), or one of the tricks below.
type names struct {
	mu      sync.Mutex
	records map[string][]netip.Addr // by the name without the domain
	flips   map[string]int          // how often a flipping name was asked for
	alias   map[string]string
}

func serveNames(t *testing.T, records map[string][]netip.Addr, alias map[string]string) *names {
	t.Helper()
	n := &names{records: records, flips: map[string]int{}, alias: alias}
	conn, err := net.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer := n.answer(buffer[:size]); answer != nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
	return n
}

// move makes a name lead elsewhere from now on.
func (n *names) move(label string, to ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records[label] = to
}

// asked returns how often a name that changes was asked for.
func (n *names) asked(label string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.flips[label]
}

// answer answers one question; what cannot be read gets none.
func (n *names) answer(query []byte) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	label := strings.TrimSuffix(name, ".trap.example")
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionAvailable: true})
	b.EnableCompression()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := b.StartQuestions(); err != nil {
		return nil
	}
	b.Question(q)
	b.StartAnswers()
	owner := q.Name
	if target := n.alias[label]; target != "" {
		cname := dnsmessage.MustNewName(target + ".trap.example.")
		b.CNAMEResource(dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, dnsmessage.CNAMEResource{CNAME: cname})
		owner, label = cname, target
	}
	addrs := n.records[label]
	if label == "drops" && q.Type == dnsmessage.TypeAAAA {
		return nil
	}
	if strings.HasPrefix(label, "flip") { // one of the addresses at each look-up, in turn; A and AAAA come in any order
		turn := label + " " + q.Type.String()
		addrs = addrs[n.flips[turn]%len(addrs):][:1]
		n.flips[turn]++
		n.flips[label]++
	}
	if strings.HasPrefix(label, "once") && n.flips[label] < 2 { // the first look-up (A and AAAA) gets the first address
		addrs = addrs[:1]
		n.flips[label]++
	} else if strings.HasPrefix(label, "once") {
		addrs = addrs[1:]
	}
	head := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET} // TTL 0
	for _, a := range addrs {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			b.AResource(head, dnsmessage.AResource{A: a.As4()})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			b.AAAAResource(head, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	out, err := b.Finish()
	if err != nil {
		return nil
	}
	return out
}

func everythingIsBlocked(t *testing.T) {
	addrs := make([]netip.Addr, len(forbidden))
	records := map[string][]netip.Addr{
		"public": {public4}, "public6": {public6}, "inner": {netip.MustParseAddr("10.0.0.1")},
		"mixed": {netip.MustParseAddr("169.254.169.254"), public4, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fd00:ec2::254")},
		"flip":  {public4, netip.MustParseAddr("127.0.0.1"), public4, netip.MustParseAddr("169.254.169.254")},
		"once":  {public4, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
		"race":  {netip.MustParseAddr("::1"), public4}, // A is public and AAAA is not …
		"race6": {public6, netip.MustParseAddr("127.0.0.1")},
		"drops": {public4, public6},
		"flip6": {netip.MustParseAddr("::1"), public6, netip.MustParseAddr("::ffff:10.0.0.1"), public4},
	}
	for i, text := range forbidden {
		addrs[i] = netip.MustParseAddr(text)
		records[fmt.Sprintf("n%d", i)] = addrs[i : i+1]
	}
	served := serveNames(t, records, map[string]string{"alias": "inner"})
	c := listenEverywhere(t)
	dir := t.TempDir()
	p, err := harness.StartKapsel(t.Context(), dir, os.Getenv(insideNamespace),
		"HTTP_PROXY=http://10.9.9.9:3128", "HTTPS_PROXY=http://10.9.9.9:3128", "ALL_PROXY=http://10.9.9.9:3128", "http_proxy=http://10.9.9.9:3128", "NO_PROXY=")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	n := &namespace{t: t, p: p, c: c}
	if n.tenant, err = p.CreateTenant(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}

	// What can be connected to is connected to: else the rest would show nothing.
	n.deliver("public", "http://public.trap.example/", 1, "delivered")
	n.deliver("public", "http://public6.trap.example:8080/", 1, "delivered")
	if got := c.judge(t, "public"); got != 2 {
		t.Fatalf("the canaries counted %d of 2 connections to public addresses", got)
	}

	// B-80, B-83, B-84: every address, as a URL and behind a name (B-86).
	urls := 0
	for i, a := range addrs {
		host := a.String()
		if a.Is6() {
			host = "[" + host + "]"
		}
		for _, scheme := range []string{"http", "https"} {
			for _, port := range []string{"", ":443", ":8080"} {
				urls++
				n.refused(scheme + "://" + host + port + "/")
			}
		}
		n.blocked(fmt.Sprintf("http://n%d.trap.example/", i))
		n.blocked(fmt.Sprintf("https://n%d.trap.example:8080/", i))
	}
	c.judge(t, "B-80")
	n.deliver("B-86", "http://mixed.trap.example/", count(10, 100), "delivered")
	n.blocked("http://alias.trap.example/")
	c.judge(t, "B-86, mixed answers and aliases")

	// A mixed name is judged by the addresses that may be tried: where nothing listens there, the
	// attempt counts, and more would follow.
	for _, name := range []string{"mixed", "race", "race6"} {
		for _, d := range n.deliver("nothing listens", "http://"+name+".trap.example:9999/", 1, "dead_letter") {
			if d.Code != "E2001" {
				t.Errorf("%s: nothing listens, and a delivery ended with %s", name, d.Code)
			}
		}
	}

	// A name server that drops questions for AAAA takes no time from the rest.
	n.deliver("AAAA is dropped", "http://drops.trap.example/", count(3, 30), "delivered")
	c.judge(t, "AAAA is dropped")

	// B-87: names that change between the check and the dial, and between two dials; all have
	// a TTL of 0, and the canaries close connections, so that each delivery looks up anew. Only
	// those at the same time may share a look-up.
	for _, name := range []string{"flip", "flip6"} {
		reached := 0
		for flips := count(50, 1000); served.asked(name) < flips; {
			n.deliver("B-87", "http://"+name+".trap.example/", min(flips, 100), "delivered", "failed", "dead_letter") // no address at all: E2007
			reached += c.judge(t, "B-87")
		}
		if reached == 0 {
			t.Errorf("%s never led to its public address", name)
		}
	}
	first := n.deliver("B-87, public at the first look-up", "http://once.trap.example/", 1, "delivered")
	if got := c.judge(t, "B-87"); got != 1 || len(first) != 1 {
		t.Errorf("once.trap.example was reached %d times", got)
	}
	n.deliver("B-87, and never again", "http://once.trap.example/", count(20, 200), "failed")
	if got := c.judge(t, "B-87"); got != 0 {
		t.Errorf("%d connections to the address that a name had once", got)
	}
	for _, name := range []string{"race", "race6"} { // of IPv6 and IPv4, one is public
		n.deliver("B-87, a race of IPv6 and IPv4", "http://"+name+".trap.example/", count(40, 1000), "delivered")
		c.judge(t, "B-87, "+name)
	}

	// B-96: a kept connection to where a name was is used again once the name has moved, and
	// no other is made.
	served.move("moves", public4)
	moving := n.endpoint("http://moves.trap.example/keep")
	for i := range 3 {
		if status, code, _ := post(t, moving.IngestURL, nil, strings.NewReader("{}")); status != 200 {
			t.Fatalf("ingest answered %d %s", status, code)
		}
		n.settled([]harness.Endpoint{moving})
		if i == 0 {
			served.move("moves", netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"))
		}
	}
	if got := c.judge(t, "B-96"); got != 1 || c.kept.Load() != 3 {
		t.Errorf("%d requests on %d connections to a name that moved, want 3 on 1", c.kept.Load(), got)
	}
	n.blocked("http://moves.trap.example:8080/") // a new connection goes where the name leads now

	// B-88: redirects to each of them.
	for _, a := range addrs {
		host := net.JoinHostPort(a.String(), "80")
		for _, status := range []string{"301", "302", "303", "307", "308"} {
			n.deliver("B-88", "http://public.trap.example/redirect/"+status+"?to="+url.QueryEscape("http://"+host+"/"), 1, "failed")
		}
	}
	if got := c.judge(t, "B-88"); got == 0 {
		t.Error("no redirect was answered")
	}

	// B-91: ports of other services, at public addresses too.
	for _, port := range []string{"22", "25", "5432", "6379", "11211"} {
		n.refused("http://public.trap.example:" + port + "/")
	}

	// B-98: blocked targets cannot be told apart, whether something listens there or not.
	n.oracle("http://n5.trap.example/", "http://n5.trap.example:9000/", "http://n8.trap.example/", "http://n2.trap.example:8080/", "http://n26.trap.example/")
	c.judge(t, "B-98")

	// B-81, B-82, B-85, B-89, B-90: odd spellings are refused, and where they come into the
	// store all the same (a bug, another version), they lead nowhere.
	var planted []harness.Endpoint
	var readable []string
	for _, raw := range spellings {
		n.refused(raw)
		if _, err := url.Parse(raw); err == nil { // the others are nothing that could be dialled
			readable = append(readable, raw)
			planted = append(planted, n.endpoint("http://public.trap.example/"))
		}
	}
	n.plant(filepath.Join(dir, "kapsel.db"), planted, readable)
	for _, ep := range planted {
		if status, code, _ := post(t, ep.IngestURL, nil, strings.NewReader("{}")); status != 200 {
			t.Fatalf("ingest answered %d %s", status, code)
		}
	}
	n.settled(planted)
	if got := c.judge(t, "spellings that are in the store"); got != 0 {
		t.Errorf("%d connections to public addresses by spellings of local ones", got)
	}
	t.Logf("%d addresses, %d URLs of them, %d spellings, %d deliveries: no connection but to public addresses", len(addrs), urls, len(spellings), n.deliveries)
}

// namespace is a Kapsel in the namespace and its canaries.
type namespace struct {
	t          *testing.T
	p          *harness.Process
	c          *canaries
	tenant     string
	deliveries int
}

// one is the policy of endpoints here: no second attempt, and no circuit that would hide one.
var one = map[string]any{
	"retry": map[string]any{"max_attempts": 1}, "timeout": "3s",
	"circuit": map[string]any{"failures": 1000, "minimum": 1000, "window": 1000},
}

func (n *namespace) try(raw string) (harness.Endpoint, error) {
	fields := map[string]any{"name": "e", "url": raw}
	maps.Copy(fields, one)
	return n.p.CreateEndpoint(n.t.Context(), n.tenant, fields)
}

func (n *namespace) endpoint(raw string) harness.Endpoint {
	n.t.Helper()
	ep, err := n.try(raw)
	if err != nil {
		n.t.Fatalf("%s: %v", raw, err)
	}
	return ep
}

// refused wants a URL to be refused when an endpoint is made with it.
func (n *namespace) refused(raw string) {
	n.t.Helper()
	if _, err := n.try(raw); err == nil || !strings.Contains(err.Error(), "422") {
		n.t.Errorf("an endpoint with the url %q: %v", raw, err)
	}
}

// blocked wants a delivery to a URL that nobody can refuse early to end as E2009.
func (n *namespace) blocked(raw string) {
	n.t.Helper()
	for _, d := range n.deliver("blocked", raw, 1, "failed") {
		if d.Code != "E2009" {
			n.t.Errorf("%s: a delivery ended with %s", raw, d.Code)
		}
	}
}

// deliver sends events to a URL and wants each delivery to end in one of the states.
func (n *namespace) deliver(what, raw string, events int, states ...string) []delivery {
	n.t.Helper()
	ep := n.endpoint(raw)
	for range events {
		if status, code, _ := post(n.t, ep.IngestURL, nil, strings.NewReader("{}")); status != 200 {
			n.t.Fatalf("%s: ingest answered %d %s", what, status, code)
		}
	}
	list := n.settled([]harness.Endpoint{ep})
	for _, d := range list {
		if !slices.Contains(states, d.Status) {
			n.t.Errorf("%s: %s: a delivery ended as %s %s", what, raw, d.Status, d.Code)
		}
	}
	return list
}

// settled waits until the endpoints have no delivery under way, or only such that wait.
func (n *namespace) settled(endpoints []harness.Endpoint) (all []delivery) {
	n.t.Helper()
	w := &world{t: n.t, ctx: n.t.Context(), nodes: []*harness.Process{n.p}}
	for _, ep := range endpoints {
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			found := list[delivery](w, "/v1/deliveries", url.Values{"endpoint_id": {ep.ID}})
			open := slices.ContainsFunc(found, func(d delivery) bool { return d.Status == "pending" || d.Status == "delivering" })
			if !open && len(found) > 0 || time.Now().After(deadline) {
				if open {
					n.t.Errorf("deliveries of %s do not end", ep.ID)
				}
				all = append(all, found...)
				break
			}
		}
	}
	n.deliveries += len(all)
	return all
}

// oracle wants the attempts at blocked targets to read alike.
func (n *namespace) oracle(urls ...string) {
	n.t.Helper()
	w := &world{t: n.t, ctx: n.t.Context(), nodes: []*harness.Process{n.p}}
	seen := map[string]bool{}
	for _, raw := range urls {
		for _, d := range n.deliver("B-98", raw, 1, "failed") {
			for _, a := range list[map[string]any](w, "/v1/deliveries/"+d.ID+"/attempts", url.Values{}) {
				seen[fmt.Sprint(a["error_code"], a["error"], a["status_code"], a["response_headers"], a["response_body"])] = true
				if text := fmt.Sprint(a["error"]); strings.Contains(text, "127.") || strings.Contains(text, "169.254") {
					n.t.Errorf("an attempt names an address: %s", text)
				}
			}
		}
	}
	if len(seen) != 1 {
		n.t.Errorf("blocked targets can be told apart: %q", slices.Collect(maps.Keys(seen)))
	}
}

// plant puts the spellings into endpoints in the store, past every check.
func (n *namespace) plant(path string, endpoints []harness.Endpoint, urls []string) {
	n.t.Helper()
	if err := n.p.Term(); err != nil {
		n.t.Fatal(err)
	}
	<-n.p.Done()
	db, err := sqlite.Open(context.Background(), path, sqlite.Options{Migrate: true})
	if err != nil {
		n.t.Fatal(err)
	}
	for i, ep := range endpoints {
		id, err := kapsel.ParseEndpointID(ep.ID)
		if err != nil {
			n.t.Fatal(err)
		}
		_, err = db.UpdateEndpoint(context.Background(), kapsel.TenantID{}, id, func(e *kapsel.Endpoint) error {
			e.URL = urls[i]
			return nil
		})
		if err != nil {
			n.t.Fatalf("plant %s: %v", strconv.Quote(urls[i]), err)
		}
	}
	if err := db.Close(); err != nil {
		n.t.Fatal(err)
	}
	if err := n.p.Start(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}
