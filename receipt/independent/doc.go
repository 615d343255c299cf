// Package independent holds tests that check package receipt with the work of others: a Merkle tree, a
// checkpoint and a note library, and a browser. It is a module of its own, so that who uses receipt does
// not depend on them.
package independent
