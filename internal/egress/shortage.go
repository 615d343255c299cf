package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Shortage says that a request could not be made because this machine lacked something. It says
// nothing about the destination, and no byte of the request was sent.
type Shortage struct {
	// Limit names, for the operator, what ran out and the setting that bounds it.
	Limit string
	Err   error // the system's error

	Ports bool // local addresses or ports ran out, which are counted per destination
}

func (s *Shortage) Error() string { return "this machine is short of " + s.Limit }
func (s *Shortage) Unwrap() error { return s.Err }

// shortageOf returns the Shortage that an error stands for; nil if it is not one. The error must
// come from dialling, or from a request before its first byte was sent.
func shortageOf(err error) *Shortage {
	var s *Shortage
	if errors.As(err, &s) {
		return s
	}
	var no syscall.Errno
	if !errors.As(err, &no) {
		return nil
	}
	switch no {
	case syscall.EMFILE:
		return &Shortage{Limit: fmt.Sprintf("files that the process may open (RLIMIT_NOFILE is %d)", mostFiles()), Err: err}
	case syscall.ENFILE:
		return &Shortage{Limit: "files that all processes may open (fs.file-max)", Err: err}
	case syscall.ENOSPC: // of epoll_ctl
		return &Shortage{Limit: "files that may be waited for (fs.epoll.max_user_watches)", Err: err}
	case syscall.ENOBUFS, syscall.ENOMEM:
		return &Shortage{Limit: "memory for connections (the machine's, the container's, or net.ipv4.tcp_mem)", Err: err}
	case syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN: // connect(2) returns all three
		if isOffFamily(err) {
			return nil
		}
		return &Shortage{Limit: "local addresses or ports (net.ipv4.ip_local_port_range" + portRange() + ")", Err: err, Ports: true}
	}
	return nil
}

// isOffFamily reports whether dialling an IPv6 address failed because this machine has no IPv6
// address, in which case waiting does not help.
func isOffFamily(err error) bool {
	to, ok := addressOf(err)
	if !ok || to.Is4() {
		return false
	}
	own, err := net.InterfaceAddrs()
	return err == nil && !slices.ContainsFunc(own, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.To4() == nil && (n.IP.IsGlobalUnicast() || to.IsLoopback())
	})
}

// portRange returns the system's range of local ports, such as " is 32768-60999"; "" if it is
// unknown.
func portRange() string {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	first, last, ok := strings.Cut(strings.TrimSpace(string(text)), "\t")
	if err != nil || !ok {
		return ""
	}
	return " is " + first + "-" + last
}

// isFreed reports whether closing an idle connection can end the shortage that err stands for.
func isFreed(err error) bool {
	s := shortageOf(err)
	return s != nil && !s.Ports
}

// If the dials to one destination keep ending in shortages for starvedAfter, while dials to others
// succeed within othersWithin, the destination itself is unreachable, and its failures count. Such
// a spell ends when a dial ends otherwise, or when the destination is not dialled for spellGap;
// once failures count, for starvedGap, which is longer than any pause between retries.
const (
	starvedAfter = 10 * time.Minute
	spellGap     = 2 * time.Minute
	starvedGap   = 25 * time.Hour
	othersWithin = time.Minute
)

// scarcity records since when the dials to each destination have ended in shortages.
type scarcity struct {
	mu      sync.Mutex
	spells  map[destination]*spell
	dialled time.Time // when a dial last succeeded
	pruned  time.Time
}

// spell is a period in which every dial to a destination ended in a shortage.
type spell struct{ first, last time.Time }

// over reports whether the destination was not dialled for so long that the spell has ended.
func (s *spell) over(now time.Time) bool {
	gap := spellGap
	if s.last.Sub(s.first) >= starvedAfter {
		gap = starvedGap
	}
	return now.Sub(s.last) >= gap
}

// judge records how a dial ended and returns its error: a Shortage, unless the destination is
// starved, in which case a starvedError.
func (s *scarcity) judge(to destination, err error, now time.Time) error {
	short := shortageOf(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if short == nil {
		delete(s.spells, to)
		if err == nil {
			s.dialled = now
		}
		return err
	}
	if now.Sub(s.pruned) >= spellGap {
		s.pruned = now
		for other, sp := range s.spells {
			if sp.over(now) {
				delete(s.spells, other)
			}
		}
	}
	sp := s.spells[to]
	if sp == nil || sp.over(now) {
		sp = &spell{first: now}
		if s.spells == nil {
			s.spells = map[destination]*spell{}
		}
		s.spells[to] = sp
	}
	sp.last = now
	if now.Sub(sp.first) >= starvedAfter && now.Sub(s.dialled) < othersWithin {
		return &starvedError{}
	}
	return short
}

// starvedError says that only one destination has met shortages, for so long that its failures
// count.
type starvedError struct{}

func (*starvedError) Error() string {
	return fmt.Sprintf("no connection could be made for %v for want of ports, files or memory on the sending side, while other destinations were reached", starvedAfter)
}

// addressOf returns the address at which dialling failed. ok is false if the error does not say.
func addressOf(err error) (to netip.Addr, ok bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Addr == nil {
		return to, false
	}
	at, err := netip.ParseAddrPort(op.Addr.String())
	return at.Addr().Unmap(), err == nil
}
