package picture

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// seenByPillow is what test/pillow/generate.py writes about a file.
type seenByPillow struct {
	Width, Height int
	Error         string // why Pillow does not open it
	file, rgb     []byte
}

// TestDecodeAsPillow reads files of all formats, sound, damaged and turned, beside
// the Pillow of test/pillow/requirements.txt. Where the two differ, it is in the
// table pillowDifferences and in docs/images.md.
func TestDecodeAsPillow(t *testing.T) {
	files := pillowFiles(t)
	if len(files) < 2000 {
		t.Fatalf("only %d files", len(files))
	}
	unused := map[string]bool{}
	for _, d := range pillowDifferences {
		for _, pattern := range d.files {
			unused[pattern] = true
		}
	}
	for name, f := range files {
		want, like := as, ""
		for _, d := range pillowDifferences {
			for _, pattern := range d.files {
				if match(t, pattern, name) {
					want, like = d.how, d.like
					delete(unused, pattern)
				}
			}
		}
		got, detail := compare(t, name, f)
		if got != want {
			t.Errorf("%s: %s (%s); listed as: %s", name, got, detail, want)
		}
		if got == opened && want == opened {
			switch {
			case like == withoutLastWord:
				like = name[:strings.LastIndexByte(name, '_')]
			case like == "" || like[0] == '_':
				like = strings.Join(strings.SplitN(name, "_", 4)[:3], "_") + like
			}
			sound, ok := files[like]
			if !ok {
				t.Fatalf("there is no file %s to compare %s with", like, name)
			}
			sound.file = f.file
			if got, detail := compare(t, name, sound); got != as {
				t.Errorf("%s beside %s: %s (%s)", name, like, got, detail)
			}
		}
	}
	for pattern := range unused {
		t.Errorf("no file is called %s any more", pattern)
	}
}

// TestDifferencesFromPillowAreInTheDocs compares the two tables.
func TestDifferencesFromPillowAreInTheDocs(t *testing.T) {
	docs, err := os.ReadFile("../../../docs/images.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(docs), "## Differences from Pillow")
	rows := map[string]bool{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) == 4 {
			rows[strings.TrimSpace(cells[1])+" → "+strings.TrimSpace(cells[2])] = true
		}
	}
	known := map[string]bool{}
	for _, d := range pillowDifferences {
		row := d.what + " → " + string(d.how)
		if known[row] = true; !rows[row] {
			t.Errorf("docs/images.md lacks %q", row)
		}
	}
	for row := range rows {
		if !known[row] && !strings.HasPrefix(row, "what → ") && !strings.HasPrefix(row, "---") {
			t.Errorf("docs/images.md has %q, which no test knows", row)
		}
	}
}

func match(t *testing.T, pattern, name string) bool {
	t.Helper()
	ok, err := path.Match(pattern, name)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// how the gateway and Pillow compare on a file.
type how string

const (
	as      how = "as Pillow"
	refused how = "refused here, opened by Pillow"
	opened  how = "opened here, refused by Pillow"
	pixels  how = "other pixels than Pillow's"
)

func compare(t *testing.T, name string, f seenByPillow) (how, string) {
	t.Helper()
	side := max(f.Width, f.Height, 1)
	// At its own size a picture is not resized.
	got, err := NewDecoder(Limits{}, side).Decode(t.Context(), bytes.NewReader(f.file))
	var e *Error
	switch {
	case err != nil && !errors.As(err, &e):
		t.Fatalf("%s: %v", name, err)
	case err != nil && f.Error != "":
		return as, err.Error()
	case err != nil:
		return refused, err.Error()
	case f.Error != "":
		return opened, f.Error
	}
	want := make([]byte, 3*side*side) // padded with black
	for y := range f.Height {
		at := side*((side-f.Height)/2+y) + (side-f.Width)/2
		copy(want[3*at:], f.rgb[3*f.Width*y:][:3*f.Width])
	}
	worst, sum := 0, 0
	for i, v := range got.pix {
		d := int(v) - int(want[i])
		worst, sum = max(worst, d, -d), sum+max(d, -d)
	}
	mean := float64(sum) / float64(len(want))
	limit := toleranceOf(name)
	if worst > limit.worst || mean > limit.mean {
		return pixels, strings.TrimSpace(jsonOf(t, map[string]any{"worst": worst, "mean": mean}))
	}
	return as, ""
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tolerance is how far from Pillow's the 8-bit values may be.
type tolerance struct {
	worst int
	mean  float64
}

// toleranceOf allows nothing where the file has every value, and the rounding of
// the inverse DCT and of colours where it has frequencies.
func toleranceOf(name string) tolerance {
	for _, pattern := range []string{"jpeg_*", "exif_*_jpeg", "exif_jpeg_*", "case_*.jpg"} {
		if ok, _ := path.Match(pattern, name); ok {
			return tolerance{3, 0.5}
		}
	}
	return tolerance{0, 0}
}

// pillowFiles makes the files and what Pillow sees in them.
func pillowFiles(t *testing.T) map[string]seenByPillow {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	here := filepath.Join(root, "test", "pillow")
	venv := filepath.Join(root, "bin", "pillow-venv")
	if !newer(filepath.Join(venv, ".ready"), filepath.Join(here, "requirements.txt")) {
		runCommand(t, append(os.Environ(), "MINOR=10"), filepath.Join(root, "scripts", "venv.sh"), venv, "test/pillow/requirements.txt")
	}
	folder := t.TempDir()
	runCommand(t, append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1"), filepath.Join(venv, "bin", "python"), filepath.Join(here, "generate.py"), folder)
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	files := map[string]seenByPillow{}
	if err := json.Unmarshal(read("index.json"), &files); err != nil {
		t.Fatal(err)
	}
	for name, f := range files {
		f.file = read(name + ".file")
		if f.Error == "" {
			f.rgb = read(name + ".rgb")
			if len(f.rgb) != 3*f.Width*f.Height || f.Width == 0 {
				t.Fatalf("%s is %d×%d pixels in %d bytes", name, f.Width, f.Height, len(f.rgb))
			}
		}
		files[name] = f
	}
	return files
}

// newer says whether a file was made after its source.
func newer(file, source string) bool {
	f, err := os.Stat(file)
	s, err2 := os.Stat(source)
	return err == nil && err2 == nil && f.ModTime().After(s.ModTime())
}

func runCommand(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Env = env
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", c, err, out)
	}
}

// withoutLastWord stands for the file whose name lacks the last word of this one's.
const withoutLastWord = "-"

// pillowDifferences are all files that are not read as Pillow reads them. Each what
// is a line of the table in docs/images.md.
var pillowDifferences = []struct {
	what  string
	how   how
	like  string   // if opened: the file whose picture it is; with _ or nothing, of that ending and the same kind of PNG; or withoutLastWord
	files []string // patterns of path.Match
}{
	{"PNG: a wrong checksum of a chunk that is not needed, or of transparency", opened, "", []string{
		"png_*_text_badcrc", "png_*_private_badcrc", "png_color[0246]_*_plte_badcrc",
	}},
	{"PNG: a wrong checksum of a chunk that is not needed, or of transparency", opened, "_trns_good", []string{"png_*_trns_badcrc"}},
	{"PNG: a wrong checksum of a chunk that is not needed, or of transparency", opened, "exif_png_exif", []string{"exif_png_exif_badcrc"}},
	{"PNG: a wrong checksum of a chunk that is not needed, or of transparency", opened, "case_ok.png", []string{
		"case_png_iccp_badcrc.png", "case_png_text_badcrc.png",
	}},
	{"PNG: a chunk of gamma, resolution, colour or transparency that is too short or too long, or of an unknown method", opened, "", []string{
		"png_*_gama_short", "png_*_phys_short", "png_*_srgb_empty", "png_*_iccp_method", "png_color[02]_*_trns_empty",
	}},
	{"PNG: a chunk of gamma, resolution, colour or transparency that is too short or too long, or of an unknown method", opened, "png_color2_depth8", []string{"png_keyed_short"}},
	{"PNG: a chunk of gamma, resolution, colour or transparency that is too short or too long, or of an unknown method", opened, "png_palette_alpha_256", []string{"png_palette_alpha_257"}},
	{"PNG: more than 256 colours", opened, "png_color3_depth8", []string{"png_palette_777"}},
	{"PNG: a chunk behind the pixels that is cut off", opened, "", []string{"png_*_length_beyond_after"}},
	{"PNG: fewer rows than the header says, in compressed data that end properly", refused, "", []string{"png_*_pixels_half"}},
	{"PNG: one transparent colour in a grey picture of 2, 4 or 16 bits or an RGB one of 16, which Pillow does not find", pixels, "", []string{
		"png_color0_depth2_keyed*", "png_color0_depth4_keyed*", "png_color0_depth16_keyed*", "png_color2_depth16_keyed*",
	}},
	{"PNG: data that are cut off behind the pixels, if their last byte holds more than a row", opened, withoutLastWord, []string{
		"png_large_color2_depth8_black_without5", "png_large_color3_depth4_black_without5", "png_large_color0_depth1_black_without5", "png_large_color2_depth8_interlaced_black_without5", "png_large_color0_depth8_black_without4", "png_large_color0_depth1_without5",
	}},
	{"PNG: Apple's variant of Xcode (`CgBI`), whose colours Pillow swaps, where its data are not Apple's too", refused, "", []string{"png_cgbi_of_zlib"}},
	{"GIF: an empty block amid the pixels, before one of 33, 44 or 59 bytes, which looks like the beginning of something else", refused, "", []string{"gif_empty_block_before_*"}},
	{"GIF: codes of 1 bit, or of more than 8, to begin with", refused, "", []string{"gif_code_size_[019]", "gif_code_size_12"}},
	{"GIF: a graphic control that is too short", opened, "gif_control", []string{"gif_control_short"}},
	{"GIF: a palette of its own, of greys in order, under a global one, which Pillow takes", pixels, "", []string{"gif_local_grey"}},
	{"WebP: a wrong size of the whole, missing padding, or a cut behind the first frame", opened, "webp_bare_lossy", []string{
		"webp_riff_size_*", "webp_pad_missing", "webp_exif_cut", "webp_unknown_length_beyond", "webp_animation_second_cut",
	}},
	{"WebP: chunks that are repeated, in the wrong order, empty or too long", opened, "webp_bare_lossy", []string{
		"webp_extended_twice", "webp_extended_long", "webp_two_pictures", "webp_unknown_first",
	}},
	{"WebP: chunks that are repeated, in the wrong order, empty or too long", opened, "webp_alpha", []string{"webp_alpha_twice"}},
	{"WebP: chunks that are repeated, in the wrong order, empty or too long", opened, "webp_alpha_left_out", []string{
		"webp_alpha_behind", "webp_alpha_empty", "webp_alpha_without_extension",
	}},
	{"WebP: flags and chunks that disagree about animation, or a damaged second frame", opened, "webp_bare_lossy", []string{
		"webp_animation_flag_*", "webp_animation_no_anim", "webp_animation_no_flag", "webp_animation_second_damaged",
	}},
	{"WebP: a frame of another size than the animation says", refused, "", []string{"webp_animation_frame_size"}},
	{"EXIF: a block that is no TIFF file, or text that is no hexadecimal, which turns nothing", opened, "exif_empty_png", []string{
		"exif_text_png", "exif_short_png", "exif_wrong_magic_png", "exif_bigtiff_little_png",
	}},
	{"EXIF: a block that is no TIFF file, or text that is no hexadecimal, which turns nothing", opened, "exif_empty_webp", []string{
		"exif_text_webp", "exif_short_webp", "exif_wrong_magic_webp", "exif_bigtiff_little_webp",
	}},
	{"EXIF: a block that is no TIFF file, or text that is no hexadecimal, which turns nothing", opened, "png_color2_depth8", []string{"exif_png_raw_profile_no_hex"}},
	{"EXIF: an entry that claims more data than the block has; since Pillow 13 it is skipped, as here", pixels, "", []string{
		"exif_type[34689]_after_huge_*_jpeg", "exif_type1[13]_after_huge_*_jpeg",
	}},
	{"EXIF: two orientations; since Pillow 13 the first counts, as here", pixels, "", []string{"exif_twice_little_*", "exif_twice_big_*", "exif_twice_first_text_*"}},
	{"EXIF: a tag that is there twice, with data outside the block; since Pillow 13 the second is skipped, as here", pixels, "", []string{
		"exif_make_twice_second_beyond_*", "exif_make_twice_cut_*",
	}},
	{"EXIF: an entry that claims more data than the block has; since Pillow 13 it is skipped, as here", pixels, "", []string{
		"exif_make_twice_second_huge_*", "exif_make_twice_first_huge_*",
	}},
	{"EXIF: its head three times over; since Pillow 13 that is unreadable, as here", pixels, "", []string{"exif_jpeg_exif_head_thrice"}},
	{"JPEG: every row without an end marker; rubbish in its place if the file is progressive", opened, "jpeg_eoi_twice", []string{
		"jpeg_no_eoi*", "jpeg_half_eoi*", "jpeg_zeros_for_eoi_progressive", "jpeg_trailer_for_eoi_progressive",
	}},
	{"JPEG: every row without an end marker; rubbish in its place if the file is progressive", opened, "jpeg_grey_eoi_twice", []string{
		"jpeg_grey_no_eoi*", "jpeg_grey_half_eoi*", "jpeg_grey_*_for_eoi_progressive",
	}},
	{"JPEG: every row without an end marker; rubbish in its place if the file is progressive", opened, "jpeg_cmyk_eoi_twice", []string{
		"jpeg_cmyk_no_eoi*", "jpeg_cmyk_half_eoi*", "jpeg_cmyk_*_for_eoi_progressive",
	}},
	{"JPEG: every row without an end marker; rubbish in its place if the file is progressive", opened, "jpeg_sub2_eoi_twice", []string{
		"jpeg_sub2_no_eoi*", "jpeg_sub2_half_eoi*", "jpeg_sub2_*_for_eoi_progressive",
	}},
	{"JPEG: every row without an end marker; rubbish in its place if the file is progressive", opened, "jpeg_restart_eoi_twice", []string{
		"jpeg_restart_no_eoi*", "jpeg_restart_half_eoi*", "jpeg_restart_*_for_eoi_progressive",
	}},
	{"JPEG: every row without an end marker; rubbish in its place if the file is progressive", opened, "case_ok_plain.jpg", []string{"case_jpg_*no_eoi.jpg"}},
	{"JPEG: every row without an end marker; rubbish in its place if the file is progressive", opened, withoutLastWord, []string{
		"jpeg_incomplete_*_endless", "jpeg_incomplete_*_zeros",
	}},
	{"JPEG: a scan that ends early, where Pillow's picture goes on in grey", refused, "", []string{
		"jpeg_half_scan_eoi*", "jpeg_*_half_scan_eoi*", "jpeg_incomplete_*_in_scan_eoi",
	}},
	{"JPEG: arithmetic coding; lossless", refused, "", []string{"case_jpg_arithmetic*.jpg", "jpeg_lossless_*"}},
	{"JPEG: one component after the other, of which some are not there, which Pillow fills with grey", refused, "", []string{"jpeg_components[123]_of_*[04k]"}},
	{"JPEG: a restart marker that is missing or in the wrong place, where Pillow guesses", refused, "", []string{"jpeg_restarts_without_*", "jpeg_restarts_none*"}},
}
