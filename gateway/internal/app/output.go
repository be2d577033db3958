package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// output is where one picture goes.
type output struct {
	name  string      // as the user says it; "-" for standard output
	path  string      // of the file itself, behind symbolic links; "" for standard output
	info  fs.FileInfo // of what is there; nil for nothing
	force bool        // what is there may be overwritten
}

// findOutput looks at what is behind a name, where nothing need be yet.
func findOutput(name string, force bool) (output, error) {
	o := output{name: name, force: force}
	if name == "-" {
		return o, nil
	}
	if name == "" || strings.HasSuffix(name, "/") {
		return o, usagef("-o %q names no file; add one, such as %s", name, filepath.Join(name, "out.png"))
	}
	var err error
	if o.path, err = behindLinks(name); err != nil {
		return o, err
	}
	switch o.info, err = os.Stat(o.path); {
	case err == nil && o.info.IsDir():
		return o, usagef("%s is a directory; name a file in it, such as %s", name, filepath.Join(name, "out.png"))
	case err == nil && o.info.Mode().Type() == fs.ModeSocket:
		return o, usagef("%s is a socket, which no picture can be written to", name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return o, unusable(name, err)
	}
	return o, nil
}

// behindLinks follows symbolic links to the path of what they name, also where nothing is there yet. A link of /proc, which /dev/stdout
// and /dev/fd lead to, is not followed: it is an open file rather than a path.
func behindLinks(name string) (string, error) {
	path := name
	for range 40 { // as many as Linux follows
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", usagef("%s: no such directory", filepath.Dir(path))
		case err != nil:
			return "", unusable(filepath.Dir(path), err)
		}
		path = filepath.Join(dir, filepath.Base(path))
		if openFile(path) {
			return path, nil
		}
		target, err := os.Readlink(path)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrNotExist): // no link
			return path, nil
		case err != nil:
			return "", unusable(name, err)
		case !filepath.IsAbs(target):
			target = dir + "/" + target // uncleaned: .. of a link to a directory is another one than its text says
		}
		path = target
	}
	return "", unusable(name, unix.ELOOP)
}

func openFile(path string) bool { return strings.HasPrefix(path, "/proc/") }

// through says whether a picture is written into what is there, a pipe or a device, and does not replace it.
func (o output) through() bool {
	return o.path == "" || openFile(o.path) || o.info != nil && !o.info.Mode().IsRegular()
}

// waits says whether writing waits for somebody else to read. Whether somebody does cannot be asked: the reader would take the question for
// the end.
func (o output) waits() bool {
	return o.path != "" && !openFile(o.path) && o.info != nil && o.info.Mode().Type() == fs.ModeNamedPipe
}

// check finds what would keep a picture from being written, before anything is computed for it. stdout is standard output.
func (o output) check(stdout io.Writer) error {
	if o.path == "" {
		if f, ok := stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return errTerminal
		}
		return nil
	}
	if o.info != nil {
		if !o.through() && !o.force {
			return usagef("%s exists; --force overwrites it", o.name)
		}
		if err := unix.Access(o.path, unix.W_OK); err != nil {
			return unusable(o.name, err)
		}
	}
	if o.through() {
		if o.info == nil || o.info.Mode()&fs.ModeCharDevice == 0 {
			return nil
		}
		device, err := os.OpenFile(o.path, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			return unusable(o.name, err)
		}
		defer device.Close()
		if term.IsTerminal(int(device.Fd())) {
			return errTerminal
		}
		return nil
	}
	file, err := o.temporary()
	if err != nil {
		return usagef("no file can be made in the directory %s: %w", filepath.Dir(o.name), reason(err))
	}
	return errors.Join(file.Close(), os.Remove(file.Name()))
}

var errTerminal = usagef("a terminal shows no pictures; redirect standard output (> out.png), or name a file with -o")

// temporary is a new file beside the output, with the permissions that the user's umask leaves or those of the file to be replaced. Its
// name is short, whatever the output's is, so that it fits where the output's does; os.CreateTemp has permissions of its own.
func (o output) temporary() (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(filepath.Dir(o.path), ".facediffuser-"+rand.Text()[:8]), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666) //nolint:gosec // as the user's umask has it
	if err == nil && o.info != nil {
		err = file.Chmod(o.info.Mode().Perm())
	}
	return file, err
}

// write puts a whole picture where it belongs. A file has the picture as a whole, or is as it was.
func (o output) write(ctx context.Context, picture []byte, stdout io.Writer) error {
	switch {
	case len(picture) == 0:
		return errNoPicture
	case o.path == "":
		_, err := io.Copy(stdout, bytes.NewReader(picture))
		return err
	case o.through():
		return o.pour(ctx, picture)
	}
	file, err := o.temporary()
	if err != nil {
		return fmt.Errorf("%s: %w", o.name, reason(err))
	}
	defer os.Remove(file.Name()) // gone already when all went well
	_, err = file.Write(picture)
	if err = errors.Join(err, file.Close()); err == nil {
		err = o.place(file.Name())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.name, reason(err))
	}
	return nil
}

// place gives a finished file the output's name, which another file may have got meanwhile.
func (o output) place(file string) error {
	if o.info == nil && !o.force {
		// Unlike a rename, a link replaces nothing.
		if err := os.Link(file, o.path); err == nil || errors.Is(err, fs.ErrExist) {
			return err
		}
		// A file system without links.
	}
	return os.Rename(file, o.path)
}

// pour writes into a pipe or a device. It waits for somebody to read a named pipe, until ctx ends.
func (o output) pour(ctx context.Context, picture []byte) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		// Appending is for a file that standard output is redirected to; to the others it means nothing.
		file, err := os.OpenFile(o.path, os.O_WRONLY|os.O_APPEND|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENXIO) { // nobody reads
			select {
			case <-again.C:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err == nil {
			stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Now()) }) // a device without deadlines takes all at once
			defer stop()
			_, err = file.Write(picture)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, reason(err))
		}
		return nil
	}
}

// unusable is a file that the user named and that cannot be used.
func unusable(name string, err error) error { return usagef("%s: %w", name, reason(err)) }

// reason is an error of the file system without the call and the path, which the user may never have seen.
func reason(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// pictureOutputs names and checks where the pictures go: the file itself, or out-0.png, out-1.png, … for several.
func (g *generation) pictureOutputs() ([]output, error) {
	one, err := findOutput(g.output, g.force)
	if err != nil {
		return nil, err
	}
	if one.path == "" && (g.count > 1 || g.json) {
		return nil, usagef("standard output takes one picture and nothing else: -o - goes with neither -n nor --json")
	}
	if one.through() && g.count > 1 {
		return nil, usagef("%s is no ordinary file and takes one picture, so that it does not go with -n %d", g.output, g.count)
	}
	files := []output{one}
	if g.count > 1 {
		files = files[:0]
		for k := range g.count {
			ext := filepath.Ext(g.output)
			file, err := findOutput(fmt.Sprintf("%s-%d%s", strings.TrimSuffix(g.output, ext), k, ext), g.force)
			if err != nil {
				return nil, err
			}
			files = append(files, file)
		}
	}
	for _, file := range files {
		if err := file.check(g.out); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// mapOutputs names and checks where the fusion maps of pictures go; nil without any.
func (g *generation) mapOutputs(files []output) (maps []output, err error) {
	if !g.fusionMaps() {
		return nil, nil
	}
	for _, file := range files {
		if file.through() {
			return nil, usagef("--fusion-map writes a file beside the picture's: -o must name a file")
		}
		one, err := findOutput(fusionMapFile(file.name), g.force)
		if err == nil {
			err = one.check(g.out)
		}
		if err != nil {
			return nil, err
		}
		maps = append(maps, one)
	}
	return maps, nil
}

// previewOutputs names and checks where the previews of pictures go, and makes the directory for them.
func (g *generation) previewOutputs(files []output) (previews [][]output, err error) {
	if g.previewDir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(g.previewDir, 0o777); err != nil { //nolint:gosec // as the user's umask has it
		return nil, unusable(g.previewDir, err)
	}
	for _, file := range files {
		of := make([]output, g.previews)
		for k := range of {
			if of[k], err = findOutput(filepath.Join(g.previewDir, fmt.Sprintf("%s-preview-%d%s", stem(file.name), k, g.extension())), g.force); err != nil {
				return nil, err
			}
			if err := of[k].check(g.out); err != nil {
				return nil, err
			}
		}
		previews = append(previews, of)
	}
	return previews, nil
}
