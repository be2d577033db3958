package picture

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image/color"
	"io"
	"slices"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/internal/icc"
)

// maxProfile is many times the size of a profile that can be applied; of a
// larger one the rest is not read.
const maxProfile = 1 << 20

// asSRGB ends a warning.
const asSRGB = "The picture was read as sRGB, so its colours may be off; convert it to sRGB before sending it"

// colours is what a file says of its colours.
type colours struct {
	profile []byte    // an ICC profile, nil for none
	space   icc.Space // what the samples are
	cicp    []byte    // code points of ITU-T H.273, nil for none
	damaged bool      // there was a profile, and it cannot be read
}

// toSRGB returns what converts rows of the picture in r to sRGB, nil for
// nothing, and a warning for its sender, "" for none. A profile is never a
// reason to refuse a picture.
func toSRGB(f *format, space icc.Space, r io.ReadSeeker) (*icc.Transform, string) {
	found := colours{space: space}
	switch f {
	case formatJPEG:
		found.readJPEG(r)
	case formatPNG:
		found.readPNG(r)
	case formatWebP:
		found.readWebP(r)
	}
	switch {
	case found.damaged:
		return nil, "the colour profile was not applied: it is damaged. " + asSRGB
	case found.profile != nil:
		t, err := icc.New(found.profile, found.space)
		if err != nil {
			return nil, fmt.Sprintf("the colour profile was not applied: %v. %s", err, asSRGB)
		}
		return t, ""
	case found.cicp != nil:
		return fromCICP(found.cicp)
	}
	return nil, ""
}

func spaceOf(m color.Model) icc.Space {
	switch m {
	case color.GrayModel, color.Gray16Model:
		return icc.Gray
	}
	return icc.RGB
}

// fromCICP knows the two sets of code points that stills of 8 bits have:
// primaries of BT.709 or Display P3, and a curve that is sRGB's or close to it.
func fromCICP(cicp []byte) (*icc.Transform, string) {
	const (
		bt709, unspecified, p3 = 1, 2, 12 // primaries
		sRGB, bt601            = 13, 6    // curves; 1 and 2 as for primaries
	)
	primaries, transfer := cicp[0], cicp[1]
	if slices.Contains([]byte{bt709, unspecified, bt601, sRGB}, transfer) {
		switch primaries {
		case bt709, unspecified:
			return nil, ""
		case p3:
			return icc.DisplayP3(), ""
		}
	}
	return nil, fmt.Sprintf("the colours were not converted: their code points (cICP) are %d/%d. %s", primaries, transfer, asSRGB)
}

// readJPEG joins the parts of a profile in the order of their numbers and wants
// all of them, as Pillow does (PIL/JpegImagePlugin.py: icclist).
func (c *colours) readJPEG(r io.Reader) {
	const (
		app2         = 0xe2
		name         = "ICC_PROFILE\x00"
		numberAndAll = 2
	)
	var parts [][]byte
	size := 0
	br := bufio.NewReader(r)
	_, _ = br.Discard(2) // an error is found by the next read
	for {
		marker, err := nextMarker(br)
		if err != nil || marker == jpegSOS {
			break
		}
		if !hasLength(marker) {
			continue
		}
		var length [2]byte
		if _, err := io.ReadFull(br, length[:]); err != nil {
			break
		}
		n := int(binary.BigEndian.Uint16(length[:])) - len(length)
		if marker != app2 || n < len(name)+numberAndAll || size > maxProfile {
			if _, err := br.Discard(max(n, 0)); err != nil {
				break
			}
			continue
		}
		part := make([]byte, n)
		if _, err := io.ReadFull(br, part); err != nil {
			break
		}
		if rest, ok := bytes.CutPrefix(part, []byte(name)); ok {
			parts = append(parts, rest)
			size += len(rest)
		}
	}
	slices.SortStableFunc(parts, func(a, b []byte) int { return int(a[0]) - int(b[0]) })
	if len(parts) > 0 && int(parts[0][1]) != len(parts) {
		c.damaged = true
		return
	}
	for _, part := range parts {
		c.profile = append(c.profile, part[numberAndAll:]...)
	}
}

// readPNG reads iCCP or, where there is none, cICP, which must come before the
// pixels. gAMA and cHRM are left alone, as Pillow does.
func (c *colours) readPNG(r io.Reader) {
	const colourType, alpha = 9, 4
	br := bufio.NewReader(r)
	_, _ = br.Discard(8) // signature
	for {
		var head [8]byte
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return
		}
		size, kind := int64(binary.BigEndian.Uint32(head[:])), string(head[4:])
		switch kind {
		case "IHDR", "iCCP", "cICP":
		case "IDAT":
			return
		default:
			if _, err := io.CopyN(io.Discard, br, size+4); err != nil {
				return
			}
			continue
		}
		if size > maxProfile {
			c.damaged = kind == "iCCP"
			return
		}
		data := make([]byte, size+4)
		if _, err := io.ReadFull(br, data); err != nil {
			return
		}
		data, sum := data[:size], binary.BigEndian.Uint32(data[size:])
		intact := crc32.Update(crc32.ChecksumIEEE(head[4:]), crc32.IEEETable, data) == sum
		switch {
		case kind == "IHDR" && size > colourType && data[colourType]&^alpha == 0:
			c.space = icc.Gray // with alpha, image/png makes RGB of it
		case kind == "iCCP":
			var err error
			c.profile, err = inflateProfile(data)
			c.damaged = err != nil || !intact
		case kind == "cICP" && intact && size == 4:
			c.cicp = data
		}
	}
}

// inflateProfile reads an iCCP chunk: name, method, zlib stream. Of a stream
// that is cut off it takes what is there, as Pillow does.
func inflateProfile(chunk []byte) ([]byte, error) {
	_, rest, _ := bytes.Cut(chunk, []byte{0})
	if len(rest) == 0 || rest[0] != 0 {
		return nil, errors.New("not deflated")
	}
	z, err := zlib.NewReader(bytes.NewReader(rest[1:]))
	if err != nil {
		return nil, err
	}
	profile, err := io.ReadAll(io.LimitReader(z, maxProfile))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return profile, err
}

func (c *colours) readWebP(r io.ReadSeeker) {
	w, err := readWebP(r)
	if err != nil || w.icc.size == 0 {
		return
	}
	c.profile, err = io.ReadAll(io.LimitReader(w.icc.reader(r), maxProfile))
	c.damaged = err != nil
}
