package parameters

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// Numeral says whether a text is a number as JSON writes them (RFC 8259, section 6).
func Numeral(s string) bool {
	return s != "" && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && json.Valid([]byte(s))
}

// Whole is the integer that a number of JSON is, also as 7.0 or 70e-1; false for
// another number, for what is no number of JSON, and beyond 2⁵³ - 1.
func Whole(s string) (int, bool) {
	const exact = 1<<53 - 1 // the next one shares its float64 with one that it is not
	if !Numeral(s) {
		return 0, false
	}
	x, err := strconv.ParseFloat(s, 64)
	if err != nil || math.Abs(x) > exact {
		return 0, false
	}
	// Rounding to a float64 makes integers of numbers that are close to one.
	mantissa, exponent, _ := strings.Cut(strings.ToLower(s), "e")
	before, after, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(before+after, "-0")
	places := len(after) - (len(digits) - len(strings.TrimRight(digits, "0"))) // after the point, before the exponent moves it
	if exponent != "" {
		e, err := strconv.Atoi(exponent)
		if err != nil {
			return 0, digits == ""
		}
		places -= e
	}
	return int(x), digits == "" || places <= 0
}
