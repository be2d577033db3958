// Package picturetest makes pictures that are too large to keep as files; for
// tests only.
package picturetest

import (
	"bytes"
	"encoding/binary"
)

// TallJPEG makes a progressive 4:4:4 JPEG of 4000 pixels by height (a multiple
// of 8) out of one of 8 rows, in which each scan is one restart interval: the
// interval repeats, with restart markers between. comment bytes of comments make
// the file as large as a photograph.
func TallJPEG(strip []byte, height, comment int) []byte {
	out := bytes.Clone(strip[:2])
	for ; comment > 0; comment -= 65535 {
		out = append(out, 0xff, 0xfe, 0xff, 0xff)
		out = append(out, make([]byte, 65533)...)
	}
	for rest := strip[2:]; rest[1] != 0xd9; {
		n := 2 + int(binary.BigEndian.Uint16(rest[2:]))
		segment := bytes.Clone(rest[:n])
		if rest = rest[n:]; segment[1] == 0xc2 { // start of frame: precision, height, …
			binary.BigEndian.PutUint16(segment[5:], uint16(height))
		}
		out = append(out, segment...)
		if segment[1] != 0xda {
			continue
		}
		end := 0
		for rest[end] != 0xff || rest[end+1] == 0 {
			end++
		}
		for i := range height / 8 {
			if i > 0 {
				out = append(out, 0xff, 0xd0+byte(i-1)%8)
			}
			out = append(out, rest[:end]...)
		}
		rest = rest[end:]
	}
	return append(out, 0xff, 0xd9)
}
