package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWholeProblems(t *testing.T) {
	files := map[string]string{
		"init":                 "123456",
		"etc/muster/image":     someID,
		"odd\nna\\me":          "x",
		"etc/muster/files":     "64 /etc/muster/image\n6 /init\n1 /odd\\nna\\\\me\n",
		"etc/muster/site.json": "{}",
	}
	tests := map[string]struct {
		change map[string]string
		want   string // in the only problem; empty: none
	}{
		"whole":          {nil, ""},
		"longer is fine": {map[string]string{"init": "1234567890"}, ""},
		"short":          {map[string]string{"init": "12"}, "not whole: /init and 0 other files"},
		"missing":        {map[string]string{"init": "", "odd\nna\\me": "-"}, "not whole: /init and 1 other files"},
		"no list":        {map[string]string{"etc/muster/files": "-"}, "/etc/muster/files is missing"},
		"damaged list":   {map[string]string{"etc/muster/files": "x /init\n"}, "damaged"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			root := fakeRoot(t, files)
			for path, text := range tc.change {
				path = filepath.Join(root, path)
				if text == "-" {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			checkProblem(t, wholeProblems(root), tc.want)
		})
	}
}

func checkProblem(t *testing.T, got []string, want string) {
	t.Helper()
	switch {
	case want == "" && len(got) > 0:
		t.Errorf("problems = %q, want none", got)
	case want != "" && (len(got) != 1 || !strings.Contains(got[0], want)):
		t.Errorf("problems = %q, want one with %q", got, want)
	}
}

func TestKernelProblems(t *testing.T) {
	log := "<6>[    0.1] Unpacking initramfs...\n<0>[    0.9] Initramfs unpacking failed: write error\n<6>[    1.0] Freeing initrd memory\n"
	want := []string{"kernel: Initramfs unpacking failed: write error; " + adviceMemory}
	if d := cmp.Diff(want, kernelProblems([]byte(log))); d != "" {
		t.Errorf("kernelProblems(), -want +got:\n%s", d)
	}
	checkProblem(t, kernelProblems([]byte("<6>[    0.1] Unpacking initramfs...\n")), "")
}

func TestImageProblems(t *testing.T) {
	root := fakeRoot(t, map[string]string{"etc/muster/image": someID + "\n"})
	checkProblem(t, imageProblems(root, ""), "")
	checkProblem(t, imageProblems(root, someID), "")
	checkProblem(t, imageProblems(root, anotherID), "111111111111 was started, but the kernel command line names aaaaaaaaaaaa")
	checkProblem(t, imageProblems(t.TempDir(), someID), "names no image")
}

func FuzzParseFileLine(f *testing.F) {
	f.Add(`12 /a\nb\\c`)
	f.Add("-1 /x")
	f.Fuzz(func(t *testing.T, line string) {
		size, path, err := parseFileLine(line)
		if err == nil && (size < 0 || path == "") {
			t.Errorf("parseFileLine(%q) = %d, %q", line, size, path)
		}
	})
}

func TestParseEarly(t *testing.T) {
	got := parseEarly("/lib/modules/6/early/loop.ko max_loop=8 x=1\n\n  /lib/modules/6/early/squashfs.ko\n")
	want := []earlyModule{{"/lib/modules/6/early/loop.ko", "max_loop=8 x=1"}, {"/lib/modules/6/early/squashfs.ko", ""}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(earlyModule{})); d != "" {
		t.Errorf("parseEarly(), -want +got:\n%s", d)
	}
}
