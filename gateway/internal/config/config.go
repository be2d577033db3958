package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"github.com/facediffuser/facediffuser/gateway/internal/keys"
)

// Config is everything an operator can say about a gateway. The zero value is not usable; start from Default.
type Config struct {
	File string // configuration file, may be empty

	Listen string // host:port of the HTTP server
	// PublicURL is where clients reach the gateway, a path included; empty: at Listen.
	PublicURL      string
	TrustedProxies []string // addresses or networks whose X-Forwarded headers are believed
	AdminListen    string   // host:port of the admin server; auto: on loopback, see AdminAddress; off: none
	InsecureListen bool     // listen beyond loopback without keys
	KeysFile       string   // file of API keys, followed while the gateway runs
	Keys           string   // API keys, as in a file
	AllowedHosts   []string // names that a Host header may have beside those of loopback
	CORSOrigins    []string // of web pages that may use the gateway
	MaxConnections int      // of the HTTP server; 0: what the limit of open files leaves

	Triton []string // host:port or unix:path of Triton replicas; empty: start a local one
	Family string   // directory of the model family: pipeline.json, tokenizer/, models/
	Python string   // interpreter of the environment that holds the local Triton
	RunDir string   // scratch of the local Triton: its back end directory, its log, its process file

	LoadTimeout    time.Duration // of the local Triton without progress while it loads; 0: for ever
	SilenceTimeout time.Duration // of the local Triton without an answer; 0: for ever
	ModelFailures  int           // calls of one model in a row after which the local Triton is started again; 0: never

	MaxRunning     int   // pictures denoised at once; 0: as many as fill one execution of every Triton
	MaxQueue       int   // pictures that wait behind them before 429
	MaxImageBytes  Bytes // one uploaded image
	MaxImagePixels int64 // width × height of one uploaded image
	UploadMemory   Bytes // request bodies, as they were sent, held for all requests together

	UploadTimeout time.Duration // one request body

	StepTimeout    time.Duration // one call to one network
	RequestTimeout time.Duration // one request, its upload and its time in the queue included
	ShutdownGrace  time.Duration // from SIGTERM to the end of the last request

	SizeFallback string   // of sizes that the family does not serve: none or nearest
	ModelAliases []string // other names of the family, beside its own

	Safety string // of pictures that are not safe for work: auto, off, flag or refuse

	EmbedParameters bool // write what reproduces a picture into it
	EmbedXMP        bool // write the XMP that marks a picture as synthetic

	MemoryLimit Bytes // soft limit of the Go heap; 0: none. GOMEMLIMIT wins
	LogFormat   string
	LogLevel    string
}

// Default is the configuration of `make run`.
func Default() Config {
	return Config{
		Listen: "127.0.0.1:8080", AdminListen: "auto", Family: "model_repository/mini", Python: ".venv/bin/python", RunDir: ".run",
		LoadTimeout: time.Minute, SilenceTimeout: 10 * time.Second, ModelFailures: 3,
		MaxQueue: 32, MaxImageBytes: 32 << 20, MaxImagePixels: 50_400_000, UploadMemory: 32 << 20, UploadTimeout: 5 * time.Minute,
		StepTimeout: 30 * time.Second, RequestTimeout: 10 * time.Minute, ShutdownGrace: 20 * time.Second,
		SizeFallback: "none", Safety: "auto", EmbedParameters: true, EmbedXMP: true,
		MemoryLimit: 150 << 20, LogFormat: "text", LogLevel: "info",
	}
}

// Flags returns a flag set whose values are the fields of c. Its names are the only list of settings there is: Load takes the names
// of variables and file keys from it.
func (c *Config) Flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("facediffuser", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&c.File, "config", c.File, "read settings from this YAML or JSON `file`")
	f.StringVar(&c.Listen, "listen", c.Listen, "serve HTTP on this `host:port`")
	f.StringVar(&c.PublicURL, "public-url", c.PublicURL, "`URL` under which clients reach the gateway, for everything that shows one (default: that of --listen)")
	f.StringSliceVar(&c.TrustedProxies, "trusted-proxies", c.TrustedProxies, "believe the X-Forwarded headers of these `addresses` or networks (10.0.0.0/8, comma-separated)")
	f.StringVar(&c.AdminListen, "admin-listen", c.AdminListen, "serve metrics, replicas, drain and pprof on this `host:port`; auto: on loopback, 1000 above the port of --listen; off: not at all")
	f.StringVar(&c.KeysFile, "keys-file", c.KeysFile, "want an API key of this `file` with every request; facediffuser keys makes and changes it, and a change is taken up within seconds")
	f.StringVar(&c.Keys, "keys", c.Keys, "want an API key of this `list` in JSON, which is what a keys-file holds (hashes, no secrets)")
	f.BoolVar(&c.InsecureListen, "insecure-listen", c.InsecureListen, "listen beyond loopback without keys: whoever reaches the address can use the gateway")
	f.StringSliceVar(&c.AllowedHosts, "allowed-hosts", c.AllowedHosts, "answer requests for these `names` too; on loopback only those for localhost and its addresses are answered")
	f.StringSliceVar(&c.CORSOrigins, "cors-origins", c.CORSOrigins, "let web pages of these `origins` (https://app.example) use the gateway")
	f.IntVar(&c.MaxConnections, "max-connections", c.MaxConnections, "hold at most this many connections; idle ones and those whose request does not come are closed for new ones (0: what the limit of open files leaves, at most 1024)")
	f.StringSliceVar(&c.Triton, "triton", c.Triton, "use the Triton servers at these gRPC `addresses` (host:port or unix:path, comma-separated) instead of starting a local one")
	f.StringVar(&c.Family, "family", c.Family, "serve the model family in this `directory` (pipeline.json, tokenizer/, models/)")
	f.StringVar(&c.Python, "python", c.Python, "`interpreter` of the environment that holds the local Triton")
	f.StringVar(&c.RunDir, "run-dir", c.RunDir, "`directory` for the local Triton's log and scratch files")
	f.DurationVar(&c.LoadTimeout, "load-timeout", c.LoadTimeout, "start the local Triton again when it makes no progress for this long while it loads: prints nothing, uses no processor time (0: never)")
	f.DurationVar(&c.SilenceTimeout, "silence-timeout", c.SilenceTimeout, "start the local Triton again when it answers nothing for this long (0: never)")
	f.IntVar(&c.ModelFailures, "model-failures", c.ModelFailures, "start the local Triton again when this many calls of one model fail in a row, test calls included (0: never)")
	f.IntVar(&c.MaxRunning, "max-running", c.MaxRunning, "denoise at most this many pictures at once (0: as many as fill one execution of every Triton)")
	f.IntVar(&c.MaxQueue, "max-queue", c.MaxQueue, "let at most this many pictures wait, answer 429 beyond")
	f.Var(&c.MaxImageBytes, "max-image-bytes", "refuse larger reference images")
	f.Int64Var(&c.MaxImagePixels, "max-image-pixels", c.MaxImagePixels, "refuse reference images with more pixels")
	f.Var(&c.UploadMemory, "upload-memory", "hold at most this much of request bodies at once, of all requests together")
	f.DurationVar(&c.UploadTimeout, "upload-timeout", c.UploadTimeout, "give the upload of one request at most this long")
	f.DurationVar(&c.StepTimeout, "step-timeout", c.StepTimeout, "give one call to one network at most this long")
	f.DurationVar(&c.RequestTimeout, "request-timeout", c.RequestTimeout, "give one request at most this long, its upload and its time in the queue included")
	f.DurationVar(&c.ShutdownGrace, "shutdown-grace", c.ShutdownGrace, "after SIGTERM, give running requests at most this long")
	f.StringVar(&c.SizeFallback, "size-fallback", c.SizeFallback, "`mode`: what to do with a size that the family does not serve; none: refuse it; nearest: make the nearest size and warn")
	f.StringSliceVar(&c.ModelAliases, "model-aliases", c.ModelAliases, "other `names` for the family, such as gpt-image-1, for programs that cannot be given its own (comma-separated)")
	f.StringVar(&c.Safety, "safety", c.Safety, "`mode`: off, flag or refuse pictures that a safety checker finds not safe for work; auto: refuse if the family has one")
	f.BoolVar(&c.EmbedParameters, "embed-parameters", c.EmbedParameters, "write the parameters that reproduce a picture into it")
	f.BoolVar(&c.EmbedXMP, "embed-xmp", c.EmbedXMP, "mark pictures as synthetic by XMP (DigitalSourceType)")
	f.Var(&c.MemoryLimit, "memory-limit", "soft limit of the Go heap (0: none; GOMEMLIMIT wins)")
	f.StringVar(&c.LogFormat, "log-format", c.LogFormat, "`text` or json")
	f.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, `info`, warn or error")
	return f
}

// Validate reports every setting that cannot work, joined.
func (c *Config) Validate() error {
	var faults []error
	fault := func(name, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: "+format, append([]any{name}, args...)...))
	}
	if err := checkAddress(c.Listen, true); err != nil {
		fault("listen", "%v", err)
	}
	if c.PublicURL != "" {
		if err := checkPublicURL(c.PublicURL); err != nil {
			fault("public-url", "%v", err)
		}
	}
	if _, err := c.Proxies(); err != nil {
		fault("trusted-proxies", "%v", err)
	}
	for i, a := range c.ModelAliases {
		if len(a) > maxModelName || !modelName.MatchString(a) {
			fault("model-aliases", "must be letters, digits and any of . _ : - in parts between slashes, at most 128 characters, not %q", a)
		}
		if slices.Contains(c.ModelAliases[:i], a) {
			fault("model-aliases", "has %q twice", a)
		}
	}
	open := c.KeysFile == "" && c.Keys == "" && !c.InsecureListen
	const advice = "can be reached from other machines, and without keys whoever reaches it can use it: name a file of keys by keys-file (`facediffuser keys create` makes one), listen on 127.0.0.1, or set insecure-listen"
	if open && checkAddress(c.Listen, true) == nil && !loopback(c.Listen) {
		fault("listen", "%s %s", c.Listen, advice)
	}
	if admin := c.AdminAddress(); admin != "" {
		if err := checkAddress(admin, true); err != nil {
			fault("admin-listen", "%v, auto or off", err)
		} else if open && !loopback(admin) {
			fault("admin-listen", "%s %s", admin, advice)
		}
	}
	if c.Keys != "" {
		if _, err := keys.Parse([]byte(c.Keys)); err != nil {
			fault("keys", "%v", err)
		}
	}
	if c.KeysFile != "" {
		if _, err := keys.ReadFile(c.KeysFile); errors.Is(err, fs.ErrNotExist) {
			fault("keys-file", "%s does not exist; `facediffuser keys create --keys-file %s` makes it and a first key", c.KeysFile, c.KeysFile)
		} else if err != nil {
			fault("keys-file", "%v", err)
		}
	}
	for _, h := range c.AllowedHosts {
		if u, err := url.Parse("http://" + h); err != nil || u.Hostname() != h || h == "" {
			fault("allowed-hosts", "must be names without scheme and port, such as pictures.example, not %q", h)
		}
	}
	for _, o := range c.CORSOrigins {
		if err := http.NewCrossOriginProtection().AddTrustedOrigin(o); err != nil || strings.Contains(o, "*") {
			fault("cors-origins", "must be origins such as https://app.example or http://localhost:5173, each by itself, not %q", o)
		}
	}
	for _, a := range c.Triton {
		if err := checkAddress(a, false); err != nil {
			fault("triton", "%v", err)
		}
	}
	if c.Family == "" {
		fault("family", "must name a directory")
	}
	if len(c.Triton) == 0 {
		if c.Python == "" {
			fault("python", "must name an interpreter unless triton names servers")
		}
		if c.RunDir == "" {
			fault("run-dir", "must name a directory unless triton names servers")
		}
	}
	within := func(name string, v, low, high int64) {
		if v < low || v > high {
			fault(name, "must be from %d to %d, not %d", low, high, v)
		}
	}
	within("max-running", int64(c.MaxRunning), 0, 1024)
	within("max-connections", int64(c.MaxConnections), 0, 1<<20)
	within("max-queue", int64(c.MaxQueue), 0, 100_000)
	within("max-image-bytes", int64(c.MaxImageBytes), 1<<10, 1<<30)
	within("max-image-pixels", c.MaxImagePixels, 1<<10, 1<<30)
	if c.UploadMemory < c.MaxImageBytes {
		fault("upload-memory", "must hold one image of max-image-bytes (%s), not %s", c.MaxImageBytes, c.UploadMemory)
	}
	if c.MemoryLimit != 0 && c.MemoryLimit < 64<<20 {
		fault("memory-limit", "must be 0 or at least 64 MiB, not %s", c.MemoryLimit)
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"step-timeout", c.StepTimeout}, {"upload-timeout", c.UploadTimeout}, {"request-timeout", c.RequestTimeout}, {"shutdown-grace", c.ShutdownGrace}} {
		if d.v < 100*time.Millisecond || d.v > time.Hour {
			fault(d.name, "must be from 100ms to 1h, not %v", d.v)
		}
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"load-timeout", c.LoadTimeout}, {"silence-timeout", c.SilenceTimeout}} {
		if d.v < 0 || d.v > 0 && d.v < time.Second {
			fault(d.name, "must be 0 or at least 1s, not %v", d.v)
		}
	}
	within("model-failures", int64(c.ModelFailures), 0, 1000)
	oneOf := func(name, v string, choices ...string) {
		if !slices.Contains(choices, v) {
			fault(name, "must be %s, not %q", strings.Join(choices, " or "), v)
		}
	}
	oneOf("size-fallback", c.SizeFallback, "none", "nearest")
	oneOf("safety", c.Safety, "auto", "off", "flag", "refuse")
	oneOf("log-format", c.LogFormat, "text", "json")
	oneOf("log-level", c.LogLevel, "debug", "info", "warn", "error")
	return errors.Join(faults...)
}

// modelName is what a model may be called: segments of a path, such as openai/gpt-image-1, without escapes.
var modelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)*$`)

const maxModelName = 128

// checkPublicURL wants the part of a URL before /v1/images/edits.
func checkPublicURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("must be like https://faces.example.org, not %q", text)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("must have no user, query or fragment: %q", text)
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1"):
		return fmt.Errorf("must be the address without /v1, not %q", text)
	}
	return nil
}

// Proxies are the trusted proxies as networks; an address is a network of one.
func (c *Config) Proxies() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range c.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if address, err2 := netip.ParseAddr(text); err2 == nil && address.Zone() == "" {
			network, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("must be addresses or networks such as 10.0.0.0/8, not %q", text)
		}
		all = append(all, network.Masked())
	}
	return all, nil
}

// Loopback says whether only programs of this machine can reach the server.
func (c *Config) Loopback() bool { return loopback(c.Listen) }

// AdminLoopback is the same for the admin server.
func (c *Config) AdminLoopback() bool { return loopback(c.AdminAddress()) }

// AdminAddress is where the admin server listens; "" for nowhere. Left to
// itself it keeps its distance from the HTTP server's port, so that two
// gateways with a port each do not meet, and takes any free port where there
// is none at that distance or the HTTP server takes any.
func (c *Config) AdminAddress() string {
	if c.AdminListen == "off" {
		return ""
	}
	if c.AdminListen != "auto" {
		return c.AdminListen
	}
	_, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return ""
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 || p+adminDistance > 65535 {
		return "127.0.0.1:0"
	}
	return fmt.Sprintf("127.0.0.1:%d", p+adminDistance)
}

const adminDistance = 1000

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkAddress wants host:port; a listener may leave the host out and ask for any free port by 0. A server
// may be at a Unix socket too, written as gRPC has it: unix:path.
func checkAddress(a string, listener bool) error {
	if !listener && strings.HasPrefix(a, "unix:") {
		return nil
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("must be host:port, not %q", a)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 && !listener {
		return fmt.Errorf("port must be a number up to 65535, not %q", port)
	}
	if host == "" && !listener {
		return fmt.Errorf("must name a host, not %q", a)
	}
	return nil
}

// Bytes is a size that reads and prints as 20MiB.
type Bytes int64

// String implements pflag.Value.
func (b Bytes) String() string {
	return strings.ReplaceAll(humanize.IBytes(uint64(max(b, 0))), " ", "")
}

// Set implements pflag.Value.
func (b *Bytes) Set(s string) error {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<62 {
		return errors.New("want a size such as 20MiB")
	}
	*b = Bytes(n)
	return nil
}

// Type implements pflag.Value.
func (*Bytes) Type() string { return "size" }
