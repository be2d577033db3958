package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// subject is one reference image. Its bytes stay in their file until they are sent.
type subject struct {
	name    string
	content io.ReaderAt // nil for a pipe or a device before check
	size    int64       // of content

	file io.ReadCloser
}

// openSubject opens a file that the user names, or standard input as "-". It reads nothing yet.
func openSubject(ctx context.Context, name string, stdin io.Reader) (*subject, error) {
	if name == "-" {
		return &subject{name: "standard input", file: io.NopCloser(stdin)}, nil
	}
	file, err := interruptible(ctx, func() (*os.File, error) { return os.Open(name) })
	switch {
	case errors.Is(err, errInterrupted):
		return nil, err
	case err != nil:
		return nil, usageError{err}
	}
	info, err := file.Stat()
	switch {
	case err != nil:
		err = unusable(name, err)
	case info.IsDir():
		err = usagef("%s is a directory; --subject takes one image, repeat it for several", name)
	case info.Mode().IsRegular():
		return &subject{name: name, content: file, size: info.Size(), file: file}, nil
	default:
		return &subject{name: name, file: file}, nil
	}
	return nil, errors.Join(err, file.Close())
}

// check refuses what the gateway would refuse, by the file's size and the picture's header; the picture is not decoded. What is no
// ordinary file is read now, up to the limit.
func (s *subject) check(ctx context.Context, limits httpapi.ServerLimits) error {
	if s.content == nil {
		data, err := readUpTo(ctx, s.file, limits.MaxImageBytes)
		switch {
		case errors.Is(err, errInterrupted):
			return err
		case err != nil:
			return unusable(s.name, err)
		}
		s.content, s.size = bytes.NewReader(data), int64(len(data))
	}
	if s.size > limits.MaxImageBytes {
		most, size := humanize.IBytes(uint64(limits.MaxImageBytes)), humanize.IBytes(uint64(s.size))
		if size == most { // of a pipe, no more was read
			size = "more than " + most
		}
		return usagef("%s: the file has %s, and at most %s are accepted; save the picture smaller, or as a JPEG", s.name, size, most)
	}
	if err := picture.Check(io.NewSectionReader(s.content, 0, s.size), picture.Limits{MaxPixels: limits.MaxImagePixels}); err != nil {
		return usagef("%s: %w", s.name, err)
	}
	return nil
}

// readUpTo reads what a pipe or a terminal gives, at most one byte more than the limit.
func readUpTo(ctx context.Context, r io.Reader, limit int64) ([]byte, error) {
	return interruptible(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(r, limit+1)) })
}

// interruptible runs a call that may wait for somebody else, such as for the other end of a pipe, and cannot be told to stop. When ctx ends
// it returns and leaves the call behind, for the end of the process.
func interruptible[T any](ctx context.Context, call func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := call()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, errInterrupted
	}
}

var errInterrupted = errors.New("interrupted")

// imageParam is the field of a reference image in an error or a warning of the API; the images count from 0.
func imageParam(param string) (k int, ok bool) {
	n, err := fmt.Sscanf(param, "image[%d]", &k)
	return k, n == 1 && err == nil
}

// aboutFile puts the name of the file that it is about before a message of the API, in place of the field.
func (o order) aboutFile(param, message string) string {
	if k, ok := imageParam(param); ok && 0 <= k && k < len(o.subjects) {
		return o.subjects[k].name + ": " + strings.TrimPrefix(message, param+": ")
	}
	return inFlags(param, message)
}

// check holds every subject against the limits.
func (o order) check(ctx context.Context, limits httpapi.ServerLimits) error {
	for _, s := range o.subjects {
		if err := s.check(ctx, limits); err != nil {
			return err
		}
	}
	return nil
}

func (o order) close() {
	for _, s := range o.subjects {
		s.file.Close()
	}
}
