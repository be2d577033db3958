// Package house holds the rules of this repository that a compiler does not check. It has no code of its own.
package house

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../../.."
	module = "github.com/facediffuser/facediffuser"
)

// source is one parsed Go file.
type source struct {
	name    string // slash-separated, from the root
	file    *ast.File
	imports []string // of this module without its path, of others in full
}

func (s source) test() bool  { return strings.HasSuffix(s.name, "_test.go") }
func (s source) dir() string { return path.Dir(s.name) }

// sources parses every Go file of the module. Nested modules (tools) have their own rules.
func sources(t *testing.T, fset *token.FileSet) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := os.Stat(filepath.Join(p, "go.mod"))
			if rel != "." && (nested == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(p) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		s := source{name: filepath.ToSlash(rel), file: f}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, strings.TrimPrefix(name, module+"/"))
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d Go files found: is %s the root?", len(all), root)
	}
	return all
}

// rooms reads the table of ARCHITECTURE.md: path → what it may import of this module ("*" for all).
func rooms(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := bytes.Cut(text, []byte("\n## Rooms\n"))
	section, _, _ = bytes.Cut(section, []byte("\n## "))
	paths := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|.*\\| ([^|]+) \\|$").FindAllSubmatch(section, -1)
	byName := map[string]string{}
	for _, m := range paths {
		p := strings.TrimSuffix(string(m[1]), "/")
		byName[path.Base(p)] = p
	}
	table := map[string][]string{}
	for _, m := range paths {
		p := strings.TrimSuffix(string(m[1]), "/")
		switch may := strings.TrimSpace(string(m[2])); may {
		case "–":
			table[p] = nil
		case "all":
			table[p] = []string{"*"}
		default:
			for name := range strings.SplitSeq(may, ",") {
				full, ok := byName[strings.TrimSpace(name)]
				if !ok {
					t.Fatalf("ARCHITECTURE.md: %s may import %q, which is no room", p, name)
				}
				table[p] = append(table[p], full)
			}
		}
	}
	if table["gateway/internal/app"] == nil || table["gateway/internal/pipeline"] == nil {
		t.Fatalf("ARCHITECTURE.md has no table of rooms: %v", table)
	}
	return table
}

// room is the longest path of the table that holds dir.
func room(table map[string][]string, dir string) (string, bool) {
	for ; dir != "."; dir = path.Dir(dir) {
		if _, ok := table[dir]; ok {
			return dir, true
		}
	}
	return "", false
}

func TestImportsFollowTheTableOfRooms(t *testing.T) {
	table := rooms(t)
	table["gateway/main.go"] = []string{"gateway/internal/app"}
	for _, s := range sources(t, token.NewFileSet()) {
		if s.test() {
			continue // a test may reach for any double
		}
		own, ok := room(table, s.name)
		if !ok {
			t.Errorf("%s: ARCHITECTURE.md has no room for it", s.name)
			continue
		}
		for _, name := range s.imports {
			to, ours := room(table, name)
			if ours && to != own && !slices.Contains(table[own], to) && !slices.Contains(table[own], "*") {
				t.Errorf("%s imports %s: ARCHITECTURE.md does not allow %s → %s", s.name, name, own, to)
			}
		}
	}
}

func TestMethodIsPure(t *testing.T) {
	for _, s := range sources(t, token.NewFileSet()) {
		if top, _, _ := strings.Cut(s.name, "/"); s.test() || top != "sampler" && top != "fusion" {
			continue
		}
		for _, name := range s.imports {
			first, _, _ := strings.Cut(name, "/")
			if strings.Contains(first, ".") || slices.Contains([]string{"context", "net", "os", "log"}, first) {
				t.Errorf("%s imports %s", s.name, name)
			}
		}
	}
}

func TestOnePackageCommentPerDirectory(t *testing.T) {
	commented, code := map[string][]string{}, map[string]bool{}
	for _, s := range sources(t, token.NewFileSet()) {
		if strings.HasSuffix(s.file.Name.Name, "_test") {
			continue
		}
		code[s.dir()] = true
		if s.file.Doc != nil {
			commented[s.dir()] = append(commented[s.dir()], s.name)
		}
	}
	for dir := range code {
		if n := len(commented[dir]); n != 1 {
			t.Errorf("%s has %d package comments: %v", dir, n, commented[dir])
		}
	}
}

func TestNoPackageIsADrawer(t *testing.T) {
	for _, s := range sources(t, token.NewFileSet()) {
		if slices.Contains([]string{"util", "utils", "common", "types", "helpers", "misc"}, s.file.Name.Name) {
			t.Errorf("%s: package %s says nothing about what it holds", s.name, s.file.Name.Name)
		}
	}
}

// forbidden calls outside tests, by import path and name. Whoever waits, waits for a condition or a context; whoever needs a setting,
// is given it.
var forbidden = map[string]map[string]string{
	"time": {"Sleep": "await a condition", "After": "await a condition", "Tick": "await a condition"},
	"os":   {"Getenv": "take a setting", "LookupEnv": "take a setting", "Args": "take a setting", "Exit": "return an error"},
}

func TestNoSleepsAndNoHiddenSettings(t *testing.T) {
	fset := token.NewFileSet()
	for _, s := range sources(t, fset) {
		if s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok || pkg.Obj != nil {
				return true
			}
			why, no := forbidden[pkg.Name][sel.Sel.Name]
			if no && slices.Contains(s.imports, pkg.Name) && (s.name != "gateway/main.go" || pkg.Name != "os") {
				t.Errorf("%s: %s.%s: %s", fset.Position(n.Pos()), pkg.Name, sel.Sel.Name, why)
			}
			return true
		})
		wiring := s.dir() == "gateway/internal/app" || s.dir() == "gateway/internal/config"
		for _, name := range s.imports {
			if !wiring && slices.Contains([]string{"flag", "github.com/spf13/pflag", "github.com/spf13/cobra"}, name) {
				t.Errorf("%s imports %s: only app and config read the command line", s.name, name)
			}
		}
	}
}

func TestModuleHasNoReplace(t *testing.T) {
	for _, name := range []string{"go.mod", "tools/go.mod"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^\s*(replace|exclude|retract)\b`).Match(text) {
			t.Errorf("%s replaces, excludes or retracts", name)
		}
	}
}

func TestMainIsSmall(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "gateway/main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > 30 {
		t.Errorf("gateway/main.go has %d lines", n)
	}
}

// TestClientsPageShowsWhatRuns compares the programs of docs/clients.md with
// the files of test/clients, which run against a gateway.
func TestClientsPageShowsWhatRuns(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, block := range regexp.MustCompile("(?ms)^<!-- (test/clients/[^ ]+) -->\n```[a-z]*\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		file, err := os.ReadFile(filepath.Join(root, block[1]))
		if err != nil {
			t.Error(err)
		} else if string(file) != block[2] {
			t.Errorf("docs/clients.md does not show %s as it is", block[1])
		}
		shown[block[1]] = true
	}
	if fences := strings.Count(string(page), "\n```"); fences != 2*len(shown) {
		t.Errorf("docs/clients.md has %d fences; %d programs have a file in test/clients", fences, len(shown))
	}
	programs := regexp.MustCompile(`\.(sh|py|mjs|java|yaml|go)$`)
	err = filepath.WalkDir(filepath.Join(root, "test/clients"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && entry.Name() == "node_modules" {
			return fs.SkipDir
		}
		name, err := filepath.Rel(root, path)
		if err == nil && programs.MatchString(name) && !strings.HasSuffix(name, "_test.go") && !shown[filepath.ToSlash(name)] {
			t.Errorf("docs/clients.md does not show %s", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
