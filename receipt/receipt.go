// Package receipt says what Kapsel's audit log holds, and verifies it without Kapsel: no server, no
// database and no network is needed, only the log's public key.
//
// A tenant's log is a Merkle tree (RFC 6962). Each attempt of a delivery is one leaf: a line of JSON
// with the attempt's ids, times and outcome, and with commitments to what was sent and received. A
// commitment is an HMAC under the salt of the event. Whoever has the salt and the value can check
// that they fit; without the salt a commitment says nothing of the value.
//
// The log's head is a signed checkpoint (C2SP tlog-checkpoint), which witnesses may sign as well
// (C2SP tlog-cosignature). A Package holds a leaf, the salt, the proof that the leaf is in the log and
// a checkpoint:
//
//	p, err := receipt.ParsePackage(text)
//	...
//	key, err := receipt.ParseKey("u5dW…=")
//	...
//	proven, err := p.Verify(key)
//
// A proof shows what the operator of a Kapsel said about an attempt, that the operator has signed it,
// and, with a witness, since when the log cannot have been changed. It does not show what the receiver
// did.
//
// The formats are described to the byte in docs/audit.md.
// The file testdata/vectors.json has examples for other implementations. The page page/verify.html
// verifies a package in a browser.
package receipt
