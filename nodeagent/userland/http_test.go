package userland

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewSource(t *testing.T) {
	for files, want := range map[string]string{
		"http://10.0.0.1:7480":        "10.0.0.1:7480 10.0.0.1:7480 /blobs/abc/x.sqfs",
		"http://10.0.0.1:7480/":       "10.0.0.1:7480 10.0.0.1:7480 /blobs/abc/x.sqfs",
		"http://head.example/files/":  "head.example:80 head.example /files/blobs/abc/x.sqfs",
		"http://[fd00::1]:7480/a%20b": "[fd00::1]:7480 [fd00::1]:7480 /a%20b/blobs/abc/x.sqfs",
		"https://10.0.0.1":            `the head's address of files is "https://10.0.0.1", want http://HOST:PORT`,
		"10.0.0.1:7480":               `the head's address of files: parse "10.0.0.1:7480": first path segment in URL cannot contain colon`,
		"http://":                     `the head's address of files is "http://", want http://HOST:PORT and nothing behind the path`,
		"http://a@b/":                 `the head's address of files is "http://a@b/", want http://HOST:PORT and nothing behind the path`,
		"http://b/?x\r\ny":            `the head's address of files: parse "http://b/?x\r\ny": net/url: invalid control character in URL`,
	} {
		src, err := newSource(files, "abc", "x.sqfs")
		got := src.addr + " " + src.host + " " + src.path
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("newSource(%q) = %s, want %s", files, got, want)
		}
	}
}

func TestReadAnswer(t *testing.T) {
	const good = "HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 5-14/100\r\n\r\n"
	part, all := span{5, 15, 100}, span{0, 100, 100}
	for name, tc := range map[string]struct {
		want span
		text string
		err  string
	}{
		"a part":             {part, good, ""},
		"old and bare":       {part, "HTTP/1.0 206\ncontent-length:10\nCONTENT-RANGE:  bytes 5-14/100 \n\n", ""},
		"all":                {all, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: identity\r\n\r\n", ""},
		"all, not the part":  {part, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "sends 100 bytes instead of 10"},
		"no part":            {part, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "does not know how to send a part of a file"},
		"no length":          {part, "HTTP/1.1 206 OK\r\nContent-Range: bytes 5-14/100\r\n\r\n", "sends -1 bytes instead of 10"},
		"two lengths":        {part, "HTTP/1.1 206 OK\r\nContent-Length: 10\r\nContent-Length: 10\r\n\r\n", `sends a Content-Length that is none: "10"`},
		"negative length":    {part, "HTTP/1.1 206 OK\r\nContent-Length: -1\r\n\r\n", `sends a Content-Length that is none: "-1"`},
		"length with a sign": {part, "HTTP/1.1 206 OK\r\nContent-Length: +10\r\n\r\n", `sends a Content-Length that is none: "+10"`},
		"packed":             {all, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Encoding: gzip\r\n\r\n", `sends the content as "gzip", which was not asked for`},
		"not HTTP":           {part, "SSH-2.0-OpenSSH\r\n", `does not speak HTTP: "SSH-2.0-OpenSSH"`},
		"HTTP/2":             {part, "HTTP/2 206 OK\r\n\r\n", `does not speak HTTP: "HTTP/2 206 OK"`},
		"strange status":     {part, "HTTP/1.1 +26 OK\r\n\r\n", "answers with status 26"},
		"long status":        {part, "HTTP/1.1 2060 OK\r\n\r\n", `does not speak HTTP: "HTTP/1.1 2060 OK"`},
		"gone":               {part, "HTTP/1.1 410 Gone\r\n\r\n", "not there"},
		"no header":          {part, "HTTP/1.1 206 OK\r\nwhat is this\r\n\r\n", `sends a header that is none: "what is this"`},
		"folded":             {part, "HTTP/1.1 206 OK\r\nA: b\r\n c: d\r\n\r\n", `sends a header that is none: " c: d"`},
		"no end":             {part, "HTTP/1.1 206 OK\r\nA: b\r\n", "unexpected EOF"},
		"nothing":            {part, "", "unexpected EOF"},
		"a long line":        {part, "HTTP/1.1 206 " + strings.Repeat("x", maxLine), "sends a line of more than 4096 bytes"},
		"many headers":       {part, "HTTP/1.1 206 OK\r\n" + strings.Repeat("A: b\r\n", maxHeaders+1), "sends more than 64 headers"},
	} {
		t.Run(name, func(t *testing.T) {
			err := readAnswer(bufio.NewReaderSize(strings.NewReader(tc.text), maxLine), tc.want)
			if got := fmt.Sprint(err); got != tc.err && (err != nil || tc.err != "") {
				t.Errorf("readAnswer() = %q, want %q", got, tc.err)
			}
		})
	}
}

// An answer is taken only if it says just what was asked for, and reading it needs no more
// than the bounds allow.
func FuzzReadAnswer(f *testing.F) {
	f.Add("HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 5-14/100\r\n\r\n0123456789")
	f.Add("HTTP/1.0 200 OK\nContent-Length: 100\n\n")
	f.Add("HTTP/1.1 302 Found\r\nLocation: http://a/\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		in := strings.NewReader(text)
		r := bufio.NewReaderSize(in, maxLine)
		err := readAnswer(r, span{5, 15, 100})
		if read := len(text) - in.Len(); read > (maxHeaders+3)*maxLine {
			t.Errorf("%d bytes were read", read)
		}
		if err != nil {
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("an end looks like a good one: %v", err)
			}
			return
		}
		if !strings.Contains(text, "206") || !strings.Contains(text, "bytes 5-14/100") || !strings.Contains(text, "10") {
			t.Errorf("%q was taken", text)
		}
	})
}

func TestParse(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	whole := fmt.Sprintf(`{"sha256": %q, "size": 15, "memory_mib": 352, "chunk": 10, "chunks": [%q, %q]}`, sum, sum, sum)
	for name, tc := range map[string]struct{ text, err string }{
		"whole":          {whole, ""},
		"a newer field":  {strings.Replace(whole, "{", `{"new": 1, `, 1), ""},
		"no JSON":        {"x", "invalid character 'x' looking for beginning of value"},
		"nothing":        {"{}", "sha256 is not 64 hexadecimal digits"},
		"upper case":     {strings.Replace(whole, "0a", "0A", 1), "sha256 is not 64 hexadecimal digits"},
		"no size":        {strings.Replace(whole, "15", "0", 1), "size is not a number of bytes"},
		"another size":   {strings.Replace(whole, "15", "21", 1), "there are 2 chunks of 10 bytes, which are not the 21 bytes that size says"},
		"huge chunks":    {strings.Replace(whole, `"chunk": 10`, `"chunk": 99999999`, 1), "chunk is 99999999 bytes, want 1 to 16777216"},
		"negative chunk": {strings.Replace(whole, `"chunk": 10`, `"chunk": -10`, 1), "chunk is -10 bytes, want 1 to 16777216"},
		"a bad chunk":    {whole[:len(whole)-4] + `z"]}`, "chunk 1 is not 64 hexadecimal digits"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse([]byte(tc.text))
			if got := fmt.Sprint(err); got != tc.err && (err != nil || tc.err != "") {
				t.Errorf("parse() = %q, want %q", got, tc.err)
			}
		})
	}
	if _, ok, err := Read(t.TempDir() + "/none"); ok || err != nil {
		t.Errorf("no file: %v, %v", ok, err)
	}
	if _, ok, err := Read(t.TempDir()); !ok || err == nil {
		t.Errorf("a folder: %v, %v", ok, err)
	}
}

func TestTooSmall(t *testing.T) {
	for _, tc := range []struct {
		needs, memTotal int64
		want            string
	}{
		{352, 457, ""}, // a virtual machine of 512 MiB
		{352, 298, ""}, // of 352
		{352, 268, "needs a machine with 352 MiB, this one has 320 MiB"},
		{352, 206, "needs a machine with 352 MiB, this one has 256 MiB"},
		{4096, 3923, ""},
		{4096, 3411, "needs a machine with 4096 MiB, this one has 3552 MiB"},
		{352, 0, ""},
		{0, 100, ""},
	} {
		if got := tooSmall(tc.needs, tc.memTotal); got != tc.want {
			t.Errorf("tooSmall(%d, %d) = %q, want %q", tc.needs, tc.memTotal, got, tc.want)
		}
	}
}

func TestFindMount(t *testing.T) {
	const info = `22 1 0:20 / / rw - rootfs rootfs rw
30 22 0:25 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
31 30 0:30 / /run/muster/userland rw - tmpfs x rw
nonsense
32 31 7:3 / /run/muster/userland ro,nodev - squashfs /dev/loop3 ro,errors=continue
33 30 7:4 / /run/with\040space\134 ro - squashfs /dev/loop4 ro
`
	for dir, want := range map[string][2]string{
		"/run/muster/userland": {"squashfs", "7:3"}, // the upper one
		"/run":                 {"tmpfs", "0:25"},
		`/run/with space\`:     {"squashfs", "7:4"},
		"/run/muster":          {"", ""},
	} {
		fstype, device, _, err := findMount(strings.NewReader(info), dir)
		if diff := cmp.Diff(want, [2]string{fstype, device}); diff != "" || err != nil {
			t.Errorf("findMount(%q): %v (-want +got):\n%s", dir, err, diff)
		}
	}
}
