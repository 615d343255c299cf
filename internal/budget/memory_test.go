package budget

import "testing"

const mib = 1 << 20

func TestDivide(t *testing.T) {
	for _, tt := range []struct {
		limit, asked int64
		want         Memory
		fits         bool
	}{
		{0, 0, Memory{0, 256 * mib, 416 * mib, 72 * mib}, true},
		{64 << 30, 0, Memory{64 << 30, 256 * mib, 416 * mib, 72 * mib}, true},
		{1152 * mib, 0, Memory{1152 * mib, 256 * mib, 416 * mib, 72 * mib}, true},
		{512 * mib, 0, Memory{512 * mib, 128 * mib, 256 * mib, 32 * mib}, true},
		{256 * mib, 0, Memory{256 * mib, 64 * mib, 128 * mib, 16 * mib}, true},
		{128 * mib, 0, Memory{128 * mib, 40 * mib, 64 * mib, 8 * mib}, true},
		{0, 1 << 30, Memory{0, 1 << 30, 1376 * mib, 72 * mib}, true},
		{4 << 30, 512 * mib, Memory{4 << 30, 512 * mib, 736 * mib, 72 * mib}, true},
		{256 * mib, 1 * mib, Memory{256 * mib, 1 * mib, 97*mib + mib/4, 16 * mib}, true},
		{256 * mib, 160 * mib, Memory{256 * mib, 160 * mib, 200 * mib, 16 * mib}, false},
	} {
		got := Divide(tt.limit, tt.asked)
		if got != tt.want || got.Fits() != tt.fits {
			t.Errorf("Divide(%d, %d) = %+v, fits: %t; want %+v", tt.limit, tt.asked, got, got.Fits(), tt.want)
		}
	}
}
