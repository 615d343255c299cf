// Package kapsel is the domain of Kapsel, a webhook reliability service: tenants and their
// keys, endpoints, the events they receive, the deliveries that bring each event to a
// destination, and the attempts that a delivery takes.
//
// The package decides and does not do: it knows no HTTP, no SQL and no clock. Times are
// parameters, in UTC.
package kapsel

//go:generate go run scripts/promises.go
