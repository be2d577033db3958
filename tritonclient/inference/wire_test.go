package inference

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestWireCompatible holds every message, field number, type, oneof, enum value
// and method of our .proto against the descriptors that NVIDIA ships in the PyPI
// package tritonclient (testdata/descriptors.txt, written by testdata/describe.py).
func TestWireCompatible(t *testing.T) {
	published := make(map[string]bool)
	data, err := os.ReadFile("testdata/descriptors.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		published[strings.TrimSpace(line)] = true
	}
	ours := describeFile(File_tritonclient_inference_inference_proto)
	if len(ours) < 150 || len(published) < 400 {
		t.Fatalf("%d lines of ours, %d published: one of the two was not read", len(ours), len(published))
	}
	for _, line := range ours {
		if !published[line] {
			t.Errorf("not in the published protocol: %s", line)
		}
	}
}

func describeFile(file protoreflect.FileDescriptor) []string {
	var lines []string
	for i := range file.Enums().Len() {
		lines = append(lines, describeEnum(file.Enums().Get(i))...)
	}
	for i := range file.Messages().Len() {
		lines = append(lines, describeMessage(file.Messages().Get(i))...)
	}
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			lines = append(lines, fmt.Sprintf("rpc %s %s %s %s streams %b%b", service.FullName(), m.Name(),
				m.Input().FullName(), m.Output().FullName(), bit(m.IsStreamingClient()), bit(m.IsStreamingServer())))
		}
	}
	return lines
}

func describeEnum(enum protoreflect.EnumDescriptor) []string {
	var lines []string
	for i := range enum.Values().Len() {
		value := enum.Values().Get(i)
		lines = append(lines, fmt.Sprintf("enum %s %s %d", enum.FullName(), value.Name(), value.Number()))
	}
	return lines
}

func describeMessage(m protoreflect.MessageDescriptor) []string {
	lines := []string{"message " + string(m.FullName())}
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		line := fmt.Sprintf("field %s %s %d %s %s", m.FullName(), field.Name(), field.Number(), field.Cardinality(), field.Kind())
		if field.Enum() != nil {
			line += " " + string(field.Enum().FullName())
		}
		if field.Message() != nil {
			line += " " + string(field.Message().FullName())
		}
		if field.ContainingOneof() != nil {
			line += " oneof " + string(field.ContainingOneof().Name())
		}
		lines = append(lines, line)
	}
	for i := range m.Enums().Len() {
		lines = append(lines, describeEnum(m.Enums().Get(i))...)
	}
	for i := range m.Messages().Len() {
		lines = append(lines, describeMessage(m.Messages().Get(i))...)
	}
	return lines
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
