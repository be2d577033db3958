package picture

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
)

const (
	parametersKey = "facediffuser"
	creatorTool   = "Face-Diffuser"

	// IPTC's word for a picture that a model made
	// (https://cv.iptc.org/newscodes/digitalsourcetype/).
	digitalSourceType = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

	namespaceIPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
	namespaceXMP  = "http://ns.adobe.com/xap/1.0/"
	namespaceOwn  = "https://github.com/facediffuser/facediffuser/ns/1.0/"

	pngXMPKey   = "XML:com.adobe.xmp"
	jpegXMPHead = namespaceXMP + "\x00"
	jpegAPP1    = 0xe1
	jpegCOM     = 0xfe
	jpegSOS     = 0xda
)

// xmpPacket makes the XMP of a picture (ISO 16684-1). parameters are for WebP,
// which has no other place for text.
func xmpPacket(synthetic bool, parameters []byte) []byte {
	var b bytes.Buffer
	b.WriteString("<?xpacket begin=\"\ufeff\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n" +
		`<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">` +
		`<rdf:Description rdf:about=""`)
	attribute := func(prefix, namespace, name string, value []byte) {
		fmt.Fprintf(&b, "\n xmlns:%s=%q\n %s:%s=\"", prefix, namespace, prefix, name)
		_ = xml.EscapeText(&b, value) // a buffer does not fail
		b.WriteByte('"')
	}
	if synthetic {
		attribute("Iptc4xmpExt", namespaceIPTC, "DigitalSourceType", []byte(digitalSourceType))
		attribute("xmp", namespaceXMP, "CreatorTool", []byte(creatorTool))
	}
	if parameters != nil {
		attribute(parametersKey, namespaceOwn, "Parameters", parameters)
	}
	b.WriteString("/></rdf:RDF></x:xmpmeta>\n<?xpacket end=\"r\"?>")
	return b.Bytes()
}

// ErrNoParameters is returned by [ReadParameters] for a picture that carries none.
var ErrNoParameters = errors.New("the picture carries no parameters")

// maxEncoded bounds what ReadParameters reads.
const maxEncoded = 64 << 20

// ReadParameters returns the JSON that [Encode] embedded: in a PNG an iTXt (or
// tEXt) chunk "facediffuser", in a JPEG comments that begin with that word, in a
// WebP an XMP property of that namespace. [ErrNoParameters] if there is none.
func ReadParameters(r io.Reader) ([]byte, error) {
	file, err := io.ReadAll(io.LimitReader(r, maxEncoded))
	if err != nil {
		return nil, err
	}
	format, err := sniff(file)
	if err != nil {
		return nil, err
	}
	var parameters []byte
	switch format {
	case formatPNG:
		parameters = pngParameters(file)
	case formatJPEG:
		parameters = jpegParameters(file)
	case formatWebP:
		parameters = webpParameters(file)
	}
	if parameters == nil {
		return nil, ErrNoParameters
	}
	if !json.Valid(parameters) {
		return nil, errors.New("the picture's parameters are not valid JSON")
	}
	return parameters, nil
}

func pngParameters(file []byte) []byte {
	for rest := file[8:]; len(rest) >= 12; {
		size := int64(binary.BigEndian.Uint32(rest))
		if size > int64(len(rest)-12) {
			return nil
		}
		data := rest[8 : 8+size]
		key, text, _ := bytes.Cut(data, []byte{0})
		if string(key) == parametersKey {
			switch string(rest[4:8]) {
			case "tEXt":
				return text
			case "iTXt": // compression flag and method, language, translated key
				if head := bytes.SplitN(text, []byte{0}, 5); len(text) > 2 && text[0] == 0 && len(head) == 5 {
					return head[4]
				}
			}
		}
		rest = rest[12+size:]
	}
	return nil
}

func jpegParameters(file []byte) []byte {
	var parameters []byte
	for rest := file[2:]; len(rest) >= 4 && rest[0] == 0xff && rest[1] != jpegSOS; {
		size := int(binary.BigEndian.Uint16(rest[2:]))
		if size < 2 || 2+size > len(rest) {
			break
		}
		if part, ok := bytes.CutPrefix(rest[4:2+size], []byte(parametersKey+" ")); ok && rest[1] == jpegCOM {
			parameters = append(parameters, part...)
		}
		rest = rest[2+size:]
	}
	return parameters
}

func webpParameters(file []byte) []byte {
	for rest := file[12:]; len(rest) >= 8; {
		size := int64(binary.LittleEndian.Uint32(rest[4:]))
		if size > int64(len(rest)-8) {
			return nil
		}
		if string(rest[:4]) == "XMP " {
			return xmpParameters(rest[8 : 8+size])
		}
		rest = rest[min(8+size+size%2, int64(len(rest))):]
	}
	return nil
}

func xmpParameters(packet []byte) []byte {
	for d := xml.NewDecoder(bytes.NewReader(packet)); ; {
		token, err := d.Token()
		if err != nil {
			return nil
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range element.Attr {
			if a.Name.Space == namespaceOwn && a.Name.Local == "Parameters" {
				return []byte(a.Value)
			}
		}
	}
}
