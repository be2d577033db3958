package picturetest

import (
	"fmt"
	"strings"
)

// Scans of [FlatJPEG] and headers of scans in general, for components 1 to 3
// and tables 0.
const (
	// The means of all blocks but the last bit, and that bit.
	ScanMeans     = "\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x00\x01"
	ScanMeansLast = "\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x00\x10"
)

// ScanTexture is the header of a scan with everything else of one component, 1
// to 3, but the last bit.
func ScanTexture(component int) string {
	return fmt.Sprintf("\xff\xda\x00\x08\x01%c\x00\x01\x3f\x01", component)
}

// ScanTextureLast is the header of a scan with that bit.
func ScanTextureLast(component int) string {
	return fmt.Sprintf("\xff\xda\x00\x08\x01%c\x00\x01\x3f\x10", component)
}

// FlatJPEG makes a progressive JPEG of one colour with the given scans in order:
// a picture of any size in a few bits a block. The first component has the
// sampling factors h·16+v, the others 1×1. All codes of its Huffman tables are
// one bit long, and all bits are zero.
func FlatJPEG(width, height int, factors byte, scans ...string) []byte {
	h, v := int(factors>>4), int(factors&15)
	out := []byte("\xff\xd8\xff\xdb\x00\x43\x00" + strings.Repeat("\x01", 64))
	out = append(out, 0xff, 0xc2, 0, 17, 8, byte(height>>8), byte(height), byte(width>>8), byte(width), 3, 1, factors, 0, 2, 0x11, 0, 3, 0x11, 0)
	codes := "\x01" + strings.Repeat("\x00", 15)
	out = append(out, "\xff\xc4\x00\x14\x00"+codes+"\x00"...) // difference 0
	out = append(out, "\xff\xc4\x00\x14\x10"+codes+"\xe0"...) // a run of 16384 blocks, and 14 bits more
	for _, scan := range scans {
		out = append(out, scan...)
		bits := 15 * ceilDiv(ceilDiv(width, 8)*ceilDiv(height, 8), 16384)
		if scan[4] == 3 { // components
			bits = (h*v + 2) * ceilDiv(width, 8*h) * ceilDiv(height, 8*v)
		}
		out = append(out, make([]byte, ceilDiv(bits, 8))...)
	}
	return append(out, 0xff, 0xd9)
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
