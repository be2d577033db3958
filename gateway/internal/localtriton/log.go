package localtriton

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	maxLogBytes  = 8 << 20
	maxLineBytes = 8 << 10
	keptLines    = 60
)

// serverLog receives what tritonserver and its models print: it writes the log
// file, cuts it at its limit, follows the loading of models and keeps the last
// lines for the reason of a death. One process writes at a time.
type serverLog struct {
	path    string
	file    *os.File
	size    int64
	limit   int64    // of a file, in bytes
	line    []byte   // unfinished last line
	recent  []string // last lines, oldest first
	loaded  func(model string)
	serving func()
	written atomic.Int64 // Unix nanoseconds of the last Write
}

var (
	modelLoaded = regexp.MustCompile(`model_lifecycle\.cc:\d+\] "successfully loaded '([^']+)'`)
	servingLine = regexp.MustCompile(`grpc_server\.cc:\d+\] "Started GRPCInferenceService`)
	// header is the start of a line by Triton's own logger: severity, month and day,
	// time, process and place; or by the protobuf library that reads configurations.
	header = regexp.MustCompile(`^(?:[IWEF]\d{4} [\d:.]+ \d+ \S+\]|\[libprotobuf [A-Z]+ \S+\]) `)
	fault  = regexp.MustCompile(`^(?:E\d{4}|\[libprotobuf ERROR) `)
	// table is a line of the wide tables in which it lists backends and options.
	table = regexp.MustCompile(`^[+|].*[+|]$`)
)

func openLog(path string) (*serverLog, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	l := &serverLog{path: path, file: file, size: info.Size(), limit: maxLogBytes}
	l.written.Store(time.Now().UnixNano())
	return l, nil
}

// lastWrite is when the server printed last, at first when the log was opened. It is safe
// for concurrent use.
func (l *serverLog) lastWrite() time.Time { return time.Unix(0, l.written.Load()) }

// Write never fails: a full disk must not stop the server by a blocked pipe.
func (l *serverLog) Write(p []byte) (int, error) {
	l.written.Store(time.Now().UnixNano())
	if l.size+int64(len(p)) > l.limit {
		l.rotate()
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	l.line = append(l.line, p...)
	for {
		end := bytes.IndexByte(l.line, '\n')
		if end < 0 {
			break
		}
		l.read(string(l.line[:end]))
		l.line = l.line[end+1:]
	}
	if len(l.line) > maxLineBytes {
		l.read(string(l.line))
		l.line = nil
	}
	return len(p), nil
}

func (l *serverLog) rotate() {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return
	}
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	l.file.Close()
	l.file, l.size = file, 0
}

func (l *serverLog) read(line string) {
	if match := modelLoaded.FindStringSubmatch(line); match != nil {
		l.loaded(match[1])
	}
	if servingLine.MatchString(line) {
		l.serving()
	}
	if table.MatchString(line) || strings.TrimSpace(line) == "" {
		return
	}
	if len(l.recent) == keptLines {
		l.recent = l.recent[1:]
	}
	l.recent = append(l.recent, line)
}

func (l *serverLog) Close() error { return l.file.Close() }

// reason is what the last lines say about a death: Triton's error lines with the
// lines that belong to them, else the last lines that are not Triton's own.
func (l *serverLog) reason() string {
	lines := l.recent
	if len(l.line) > 0 {
		lines = append(lines, string(l.line))
	}
	var errors []string
	inError := false
	for _, line := range lines {
		if header.MatchString(line) {
			inError = fault.MatchString(line) && !strings.Contains(line, "CudaDriverHelper has not been initialized")
		}
		if inError {
			text := header.ReplaceAllString(line, "")
			if plain, err := strconv.Unquote(text); err == nil { // a message with escaped line ends
				text = strings.TrimSpace(plain)
			}
			errors = append(errors, text)
		}
	}
	if len(errors) == 0 {
		for _, line := range lines {
			if !header.MatchString(line) {
				errors = append(errors, line) // what a library said on its way out
			}
		}
	}
	if len(errors) == 0 {
		return "nothing (the process was ended from outside)"
	}
	return strings.Join(errors[max(0, len(errors)-12):], "\n")
}

// ExitError says why tritonserver died.
type ExitError struct {
	Status  string // as os.ProcessState says it: "exit status 1", "signal: killed"
	Reason  string // the error lines of its log, or the last lines
	LogFile string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("Triton ended (%s); its log %s says:\n%s", e.Status, e.LogFile, e.Reason)
}
