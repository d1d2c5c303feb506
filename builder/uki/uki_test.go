package uki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/builder/uki/ukitest"
	"muster/internal/need"
)

func sections() []Section {
	return []Section{
		{Name: ".cmdline", Data: []byte("quiet")},
		{Name: ".initrd", Data: bytes.Repeat([]byte("initrd"), 3000)},
		{Name: ".linux", Data: bytes.Repeat([]byte("k"), 4096)},
	}
}

func assemble(t testing.TB) []byte {
	t.Helper()
	b, err := Assemble(ukitest.Stub(), sections())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newSigner(t testing.TB, p ukitest.Pair) *Signer {
	t.Helper()
	s, err := NewSigner("k.pem", p.Key, "c.pem", p.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAssemble(t *testing.T) {
	b := assemble(t)
	im, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	var memory uint32
	for _, want := range append([]Section{{Name: ".text", Data: []byte{0x31, 0xc0, 0xc3}}}, sections()...) {
		got, ok := im.Section(want.Name)
		if !ok || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("section %s is %d bytes, want %d", want.Name, len(got.Data), len(want.Data))
		}
		if got.address < memory || got.address%0x1000 != 0 {
			t.Errorf("section %s is loaded at %#x, the one before it ends at %#x", want.Name, got.address, memory)
		}
		memory = got.address + got.memory
		if !bytes.Equal(b[got.Offset:][:len(want.Data)], want.Data) {
			t.Errorf("section %s is not at %d", want.Name, got.Offset)
		}
	}
	if size := binary.LittleEndian.Uint32(b[im.optional+optImageSize:]); size < memory || size%0x1000 != 0 {
		t.Errorf("the image has %#x bytes in memory, want %#x, aligned", size, memory)
	}
	if !bytes.Equal(b, assemble(t)) {
		t.Error("two programs of the same sections differ")
	}
	if im.Signed() || len(b)%512 != 0 {
		t.Errorf("signed: %v, size %d", im.Signed(), len(b))
	}
}

func TestAssembleRefuses(t *testing.T) {
	many := func(n int) []Section {
		var out []Section
		for i := range n {
			out = append(out, Section{Name: "." + string(rune('a'+i)), Data: []byte("x")})
		}
		return out
	}
	for name, c := range map[string]struct {
		stub []byte
		add  []Section
		want string
	}{
		"no stub":       {[]byte("#!/bin/sh\n"), sections(), "the stub is no UEFI program"},
		"no room":       {ukitest.Stub(), many(20), "has room for"},
		"twice":         {ukitest.Stub(), append(sections(), Section{Name: ".text", Data: []byte("x")}), `section ".text" cannot be added`},
		"empty":         {ukitest.Stub(), []Section{{Name: ".x"}}, `section ".x" cannot be added`},
		"long":          {ukitest.Stub(), []Section{{Name: ".too-long", Data: []byte("x")}}, `section ".too-long" cannot be added`},
		"stub too long": {append(ukitest.Stub(), 0), sections(), "the stub has 1 bytes behind its last section"},
	} {
		if _, err := Assemble(c.stub, c.add); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Assemble() = %v, want %q", name, err, c.want)
		}
	}
}

// TestSign signs with all kinds of keys, and has Debian's sbverify check the result.
func TestSign(t *testing.T) {
	program := assemble(t)
	for name, pair := range map[string]ukitest.Pair{
		"RSA-2048 PKCS#8": ukitest.NewPair(t, "site", 2048, false),
		"RSA-3072 PKCS#1": ukitest.NewPair(t, "site", 3072, true),
		"RSA-4096":        ukitest.NewPair(t, "a name, with a comma", 4096, false),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSigner(t, pair)
			signed, err := Sign(program, s)
			if err != nil {
				t.Fatal(err)
			}
			im, err := Parse(signed)
			if err != nil {
				t.Fatal(err)
			}
			by, err := im.Signatures()
			if err != nil || len(by) != 1 || !by[0].Equal(s.Chain[0]) {
				t.Fatalf("Signatures() = %v, %v", by, err)
			}
			if !bytes.Equal(im.Unsigned(), program) {
				t.Error("without its signature the program is not as before")
			}
			if again, err := Sign(signed, s); err != nil || !bytes.Equal(again, signed) {
				t.Errorf("signing once more gives other bytes (%v)", err)
			}
			sbverify(t, signed, pair.Cert)
		})
	}
}

func sbverify(t *testing.T, program, cert []byte) {
	t.Helper()
	tool := need.Program(t, "sbverify", "sbsigntool")
	dir := t.TempDir()
	file, pem := filepath.Join(dir, "x.efi"), filepath.Join(dir, "c.pem")
	if err := os.WriteFile(file, program, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pem, cert, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "--cert", pem, file).CombinedOutput(); err != nil {
		t.Errorf("sbverify: %v\n%s", err, out)
	}
}

// TestSignaturesOfOthers reads what sbsign wrote.
func TestSignaturesOfOthers(t *testing.T) {
	tool := need.Program(t, "sbsign", "sbsigntool")
	dir, pair := t.TempDir(), ukitest.NewPair(t, "others", 2048, true)
	for name, data := range map[string][]byte{"x.efi": assemble(t), "k": pair.Key, "c": pair.Cert} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(tool, "--key", "k", "--cert", "c", "--output", "y.efi", "x.efi")
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("sbsign: %v\n%s", err, out)
	}
	signed, err := os.ReadFile(filepath.Join(dir, "y.efi"))
	if err != nil {
		t.Fatal(err)
	}
	im, err := Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	if by, err := im.Signatures(); err != nil || len(by) != 1 || by[0].Subject.CommonName != "others" {
		t.Errorf("Signatures() = %v, %v", by, err)
	}
}

// TestSignatureOfOtherBytes changes every part of a signed program.
func TestSignatureOfOtherBytes(t *testing.T) {
	good, err := Sign(assemble(t), newSigner(t, ukitest.NewPair(t, "site", 2048, false)))
	if err != nil {
		t.Fatal(err)
	}
	im, err := Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	linux, _ := im.Section(".linux")
	table := len(good) - len(im.certificates)
	for name, c := range map[string]struct {
		at   int
		want string
	}{
		"kernel":     {int(linux.Offset), "it is of other contents"},
		"entry":      {im.optional + 16, "it is of other contents"},
		"padding":    {int(linux.Offset) - 1, "it is of other contents"},
		"length":     {table + 1, "table of signatures is damaged"},
		"type":       {table + 6, "which Secure Boot does not use"},
		"message":    {table + 9, "no PKCS#7 message"},
		"signature":  {len(good) - 20, "not made with the key of its certificate"},
		"its digest": {bytes.Index(good, []byte("\x04\x20")) + 5, ""},
	} {
		b := bytes.Clone(good)
		b[c.at] ^= 0x40
		im, err := Parse(b)
		if err != nil {
			t.Errorf("%s: Parse() = %v", name, err)
			continue
		}
		if _, err := im.Signatures(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Signatures() = %v, want %q", name, err, c.want)
		}
	}
	for n := range len(good) {
		if im, err := Parse(good[:n]); err == nil {
			if _, err := im.Signatures(); err == nil {
				t.Fatalf("the first %d of %d bytes were accepted", n, len(good))
			}
		}
	}
	if _, err := Parse(append(bytes.Clone(good), 0)); err == nil || !strings.Contains(err.Error(), "its signature is at bytes") {
		t.Errorf("a byte behind the signature: %v", err)
	}
}

func TestNewSignerRefuses(t *testing.T) {
	a, b := ukitest.NewPair(t, "a", 2048, false), ukitest.NewPair(t, "b", 2048, false)
	small := ukitest.NewPair(t, "small", 1024, true)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	elliptic := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	for name, c := range map[string]struct {
		key, cert []byte
		want      string
	}{
		"mismatch":       {a.Key, b.Cert, "key k.pem is not that of certificate c.pem (CN=b)"},
		"no key":         {a.Cert, a.Cert, "key k.pem: there is no private key"},
		"no certificate": {a.Key, []byte("text"), "certificate c.pem: there is no certificate"},
		"key for both":   {a.Key, a.Key, "certificate c.pem: there is no certificate"},
		"encrypted":      {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}), a.Cert, "key k.pem: it is encrypted"},
		"old encrypted":  {pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "x"}, Bytes: []byte("x")}), a.Cert, "key k.pem: it is encrypted"},
		"elliptic":       {elliptic, a.Cert, "firmware checks RSA"},
		"too small":      {small.Key, small.Cert, "it has 1024 bits"},
		"damaged":        {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), a.Cert, "key k.pem: it cannot be read"},
	} {
		if _, err := NewSigner("k.pem", c.key, "c.pem", c.cert); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: NewSigner() = %v, want %q", name, err, c.want)
		}
	}
	block, _ := pem.Decode(a.Cert)
	s, err := NewSigner("k.pem", a.Key, "c.der", block.Bytes)
	if err != nil {
		t.Fatalf("a certificate in DER: %v", err)
	}
	now := time.Now()
	if w := s.Warning(now); w != "" {
		t.Errorf("Warning() = %q", w)
	}
	if w := s.Warning(now.Add(48 * time.Hour)); !strings.Contains(w, "CN=a expired on") {
		t.Errorf("Warning() of an expired one = %q", w)
	}
	if w := s.Warning(now.Add(-48 * time.Hour)); !strings.Contains(w, "is not valid before") {
		t.Errorf("Warning() of an early one = %q", w)
	}
}

// FuzzParse parses anything, and checks what comes out of it. A signed program is among the seeds in testdata:
// making a key takes long where all code counts what it does.
func FuzzParse(f *testing.F) {
	program, err := Assemble(ukitest.Stub(), []Section{{Name: ".linux", Data: []byte("k")}}) // small: each finding is made smaller
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ukitest.Stub())
	f.Add(program)
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, data []byte) {
		im, err := Parse(data)
		if err != nil {
			return
		}
		for _, s := range im.Sections {
			if len(s.Data) > 0 && !bytes.Equal(s.Data, data[s.Offset:][:len(s.Data)]) {
				t.Errorf("section %q is not at %d", s.Name, s.Offset)
			}
		}
		_, _ = im.Signatures()
		unsigned, err := Parse(im.Unsigned())
		if err != nil || unsigned.Signed() {
			t.Errorf("without signatures it cannot be read: %v", err)
			return
		}
		if unsigned.Digest() != im.Digest() {
			t.Error("a signature changes the digest")
		}
	})
}
