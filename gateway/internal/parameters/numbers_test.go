package parameters_test

import (
	"math/big"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
)

// TestWhole compares with math/big, which computes exactly.
func TestWhole(t *testing.T) {
	for _, s := range []string{
		"0", "-0", "0.0", "0e5", "7", "-7", "7.0", "7.50", "7e0", "7E+2", "70e-1", "75e-1", "1.25e2", "1.25e1", "0.001e3", "0.001e2", "100e-2", "100e-3",
		"7.00000000000000000001", "1e-400", "0e-400", "9007199254740991", "-1.5e1", "1e15",
	} {
		exact, ok := new(big.Rat).SetString(s)
		if !ok {
			t.Fatal(s)
		}
		got, whole := parameters.Whole(s)
		if whole != exact.IsInt() || whole && exact.Num().Int64() != int64(got) {
			t.Errorf("%s: %d, %v, want %v", s, got, whole, exact)
		}
	}
	for _, s := range []string{"", " 7", "7 ", "+7", "07", "1_0", "0x10", ".5", "5.", "1e", "true", "null", "inf", "NaN", "9007199254740993", "1e16", "1e400", "1e" + strings.Repeat("9", 30)} {
		if n, ok := parameters.Whole(s); ok {
			t.Errorf("%q is taken for %d", s, n)
		}
	}
}
