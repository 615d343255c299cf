package transfer

import "testing"

// SetBatch makes batches have at most some rows for a test's duration.
func SetBatch(t *testing.T, rows int) {
	was := maxRows
	maxRows = rows
	t.Cleanup(func() { maxRows = was })
}
