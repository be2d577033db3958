package picture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"regexp"
	"slices"
)

// metadata are the blocks of a file that can say how the picture is to be turned.
type metadata struct {
	exif []byte // a TIFF file, behind "Exif\0\0" or not
	xmp  []byte // an XMP packet
}

// maxMetadata bounds either block; what is longer is not read.
const maxMetadata = 1 << 20

// orientation is EXIF's Orientation, 1 to 8, where the block of EXIF has one,
// else that of XMP; 1 where neither has or where they are unreadable, which is no
// reason to refuse a picture. It is what Pillow's exif_transpose goes by
// (python-pillow/Pillow, src/PIL/Image.py: getexif).
func (m metadata) orientation() int {
	value, ok := exifOrientation(m.exif)
	if !ok {
		value, ok = xmpOrientation(m.xmp)
	}
	if !ok || value < 1 || value > 8 {
		return 1
	}
	return value
}

var xmpOrientationPattern = regexp.MustCompile(`tiff:Orientation(?:="|>)([0-9])`)

func xmpOrientation(packet []byte) (int, bool) {
	match := xmpOrientationPattern.FindSubmatch(packet)
	if match == nil {
		return 0, false
	}
	return int(match[1][0] - '0'), true
}

const (
	tagOrientation = 0x0112
	tagDNGVersion  = 0xc612
)

// exifOrientation reads the first entry of IFD0 that is an Orientation, whatever
// numeric type it has and however many values. The value is 0 where it is no
// whole number; false means that there is no such entry.
//
// It reads what Pillow 13 reads (src/PIL/TiffImagePlugin.py: ImageFileDirectory_v2):
// entries of tags that have been read before, of unknown types and of more data
// than the whole block are skipped; an entry whose data lie outside the block, or
// the end of the block, ends the list.
func exifOrientation(block []byte) (value int, ok bool) {
	for range 2 {
		block = bytes.TrimPrefix(block, []byte(exifHead))
	}
	order, entries := firstDirectory(block)
	size := uint64(len(block))
	elsewhere := uint64(0) // bytes of data outside the entries so far
	read := map[uint16]bool{}
	for entry := range slices.Chunk(entries, tiffEntry) {
		tag := order.Uint16(entry)
		kind := tiffType(order.Uint16(entry[2:]))
		length := kind.size() * uint64(order.Uint32(entry[4:]))
		if length == 0 || read[tag] {
			continue
		}
		data := entry[8:]
		if length > 4 {
			if elsewhere += length; elsewhere > size {
				continue
			}
			at := uint64(order.Uint32(data))
			if at+length > size {
				return 0, false
			}
			data = block[at:]
		}
		if tag == tagOrientation {
			return kind.integer(order, data), true
		}
		read[tag] = true
	}
	return 0, false
}

// tiffEntry is the size of a directory's entry: tag, type, count, data or where these are.
const tiffEntry = 12

// firstDirectory returns the whole entries of IFD0, as far as block has them.
func firstDirectory(block []byte) (binary.ByteOrder, []byte) {
	if len(block) < 8 {
		return nil, nil
	}
	var order binary.ByteOrder
	switch string(block[:4]) {
	case "MM\x00*", "MM*\x00", "MM\x00+": // the others are mistakes that Pillow allows for
		order = binary.BigEndian
	case "II*\x00", "II\x00*":
		order = binary.LittleEndian
	default:
		return nil, nil
	}
	offset := uint64(order.Uint32(block[4:]))
	if offset+2 > uint64(len(block)) {
		return nil, nil
	}
	entries := block[offset+2:]
	count := min(int(order.Uint16(block[offset:])), len(entries)/tiffEntry)
	return order, entries[:count*tiffEntry]
}

// tiffType is the type of a TIFF entry's values.
type tiffType uint16

const (
	tiffByte      tiffType = 1
	tiffASCII     tiffType = 2
	tiffShort     tiffType = 3
	tiffLong      tiffType = 4
	tiffRational  tiffType = 5
	tiffSByte     tiffType = 6
	tiffUndefined tiffType = 7
	tiffSShort    tiffType = 8
	tiffSLong     tiffType = 9
	tiffSRational tiffType = 10
	tiffFloat     tiffType = 11
	tiffDouble    tiffType = 12
	tiffIFD       tiffType = 13
	tiffLong8     tiffType = 16
)

// size is that of one value in bytes, 0 for an unknown type.
func (t tiffType) size() uint64 {
	switch t {
	case tiffByte, tiffASCII, tiffSByte, tiffUndefined:
		return 1
	case tiffShort, tiffSShort:
		return 2
	case tiffLong, tiffSLong, tiffFloat, tiffIFD:
		return 4
	case tiffRational, tiffSRational, tiffDouble, tiffLong8:
		return 8
	}
	return 0
}

// integer is the first value of data, 0 where it is none or no small number. To
// Pillow BYTE, ASCII and UNDEFINED are strings, not numbers.
func (t tiffType) integer(order binary.ByteOrder, data []byte) int {
	var v float64
	switch t {
	case tiffShort:
		v = float64(order.Uint16(data))
	case tiffSShort:
		v = float64(int16(order.Uint16(data)))
	case tiffSByte:
		v = float64(int8(data[0]))
	case tiffLong, tiffIFD:
		v = float64(order.Uint32(data))
	case tiffSLong:
		v = float64(int32(order.Uint32(data)))
	case tiffLong8:
		v = float64(order.Uint64(data))
	case tiffFloat:
		v = float64(math.Float32frombits(order.Uint32(data)))
	case tiffDouble:
		v = math.Float64frombits(order.Uint64(data))
	case tiffRational:
		v = float64(order.Uint32(data)) / float64(order.Uint32(data[4:]))
	case tiffSRational:
		v = float64(int32(order.Uint32(data))) / float64(int32(order.Uint32(data[4:])))
	}
	if v != math.Trunc(v) || math.Abs(v) > math.MaxUint16 { // NaN too
		return 0
	}
	return int(v)
}

const exifHead = "Exif\x00\x00"

// jpegMetadata reads the segments up to the first scan. EXIF that is too long for
// one segment goes on in the next.
func jpegMetadata(file io.ReadSeeker) (m metadata) {
	r := bufio.NewReader(file)
	if _, err := r.Discard(2); err != nil { // start of image
		return m
	}
	var b [2]byte
	for {
		marker, err := nextMarker(r)
		if err != nil || marker == jpegSOS {
			return m
		}
		if !hasLength(marker) {
			continue
		}
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return m
		}
		left := int(binary.BigEndian.Uint16(b[:])) - 2
		if left < 0 {
			return m
		}
		if marker != jpegAPP1 {
			if _, err := r.Discard(left); err != nil {
				return m
			}
			continue
		}
		segment := make([]byte, left)
		if _, err := io.ReadFull(r, segment); err != nil {
			return m
		}
		if rest, ok := bytes.CutPrefix(segment, []byte(exifHead)); ok && len(m.exif)+len(rest) <= maxMetadata {
			if m.exif == nil {
				rest = segment
			}
			m.exif = append(m.exif, rest...)
		}
		if packet, ok := bytes.CutPrefix(segment, []byte(jpegXMPHead)); ok {
			m.xmp = packet
		}
	}
}

// nextMarker returns the next marker of a JPEG, past fill bytes and rubbish.
func nextMarker(r io.ByteReader) (byte, error) {
	for {
		b, err := r.ReadByte()
		for err == nil && b != 0xff {
			b, err = r.ReadByte()
		}
		for err == nil && b == 0xff {
			b, err = r.ReadByte()
		}
		if err != nil || b != 0 {
			return b, err
		}
	}
}

// hasLength tells a segment from a marker that stands alone: restarts, the
// image's start and end, and those that are reserved.
func hasLength(marker byte) bool {
	return marker >= 0xc0 && marker != 0xc8 && (marker < 0xd0 || marker > 0xd9) && (marker < 0xf0 || marker == jpegCOM)
}
