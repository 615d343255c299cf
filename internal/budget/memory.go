package budget

const (
	// mostBodies is the default budget for bodies of a process with enough memory.
	mostBodies = 256 << 20
	// leastBodies is the smallest default budget for bodies, however little memory there is: four
	// bodies of the default maximum size.
	leastBodies = 40 << 20
	// heapBeside is what the Go heap needs apart from bodies.
	heapBeside = 96 << 20
	// mostCaches is the most that the page caches of an embedded database take.
	mostCaches = 72 << 20
)

// Memory says how a process divides its memory, in bytes.
type Memory struct {
	Limit  int64 // memory available to the process; 0: not known
	Bodies int64 // limit of the Budget
	Heap   int64 // soft limit of the Go heap (GOMEMLIMIT)
	Caches int64 // page caches of an embedded database, outside of Go's heap
}

// Divide divides limit bytes of memory; 0 means unlimited. bodies is the configured budget for
// bodies; 0: the default. By default a quarter goes to bodies. The Go heap, which holds them, gets
// half, or five quarters of bodies if that is more. The rest is for what Go does not count: the
// program itself, page caches, and the copies that an embedded database makes of a body while
// writing or reading it, about 50 MiB with bodies of 10 MiB. With 1,152 MiB or more, a process
// gets everything it can use.
func Divide(limit, bodies int64) Memory {
	if bodies == 0 {
		bodies = mostBodies
		if limit > 0 {
			bodies = max(leastBodies, min(bodies, limit/4))
		}
	}
	m := Memory{Limit: limit, Bodies: bodies, Heap: heapBeside + bodies/4*5, Caches: mostCaches}
	if limit > 0 {
		m.Heap = min(m.Heap, max(limit/2, bodies/4*5))
		m.Caches = min(m.Caches, limit/16)
	}
	return m
}

// Fits reports whether Bodies leaves enough memory for the rest, as far as Limit is known.
func (m Memory) Fits() bool { return m.Limit == 0 || m.Bodies <= max(leastBodies, m.Limit/4) }
