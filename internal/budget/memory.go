package budget

const (
	// mostBodies is how many bytes of bodies a process with enough memory holds by default.
	mostBodies = 256 << 20
	// leastBodies is how many it holds by default however little memory there is: four bodies
	// of the default limit.
	leastBodies = 40 << 20
	// heapBeside is what the heap needs beside bodies; a quarter of these is garbage.
	heapBeside = 96 << 20
	// mostCaches is how much the page caches of an embedded database take at most.
	mostCaches = 72 << 20
)

// Memory is how a process divides the memory that it may use, in bytes.
type Memory struct {
	Limit  int64 // what there is; 0: not known
	Bodies int64 // for a Budget
	Heap   int64 // the limit of Go's collector (GOMEMLIMIT)
	Caches int64 // page caches of an embedded database, outside of Go's heap
}

// Divide divides limit bytes of memory; 0 is as much as the process wants. bodies is what was
// asked for, 0 for the default. A quarter goes to bodies and half to Go's heap, which holds
// them. The other half is for what Go does not count: the program itself, page caches, and the
// copies that an embedded database makes of a body as it writes or reads it, about 50 MiB with
// bodies of 10 MiB. A process with 1,152 MiB or more has all that it wants.
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

// Fits reports whether the process stays within its memory, as far as that is known.
func (m Memory) Fits() bool { return m.Limit == 0 || m.Bodies <= max(leastBodies, m.Limit/4) }
