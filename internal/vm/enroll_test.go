package vm

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"muster/internal/need"
)

func TestEnroll(t *testing.T) {
	fw, err := findOVMF(os.Stat, ownKeyOVMFPlaces)
	if err != nil {
		need.Missing(t, "%v", err)
	}
	blank, err := os.ReadFile(fw.vars)
	if err != nil {
		t.Fatal(err)
	}
	cert := bytes.Repeat([]byte("certificate "), 60)
	got, err := enroll(blank, cert)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(blank) || bytes.Count(got, cert) != 3 {
		t.Errorf("%d bytes with the certificate %d times, want %d with it 3 times", len(got), bytes.Count(got, cert), len(blank))
	}
	for name, b := range map[string][]byte{"empty": nil, "no firmware volume": bytes.Repeat([]byte{0xff}, 1000), "not empty": got} {
		if _, err := enroll(b, cert); err == nil || !strings.HasPrefix(err.Error(), "they are") {
			t.Errorf("%s: enroll() = %v", name, err)
		}
	}
	if _, err := enroll(blank, make([]byte, len(blank))); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("a long certificate: enroll() = %v", err)
	}
}

func TestGUID(t *testing.T) {
	if got, want := guid(guidX509)[:9], []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87}; !bytes.Equal(got, want) {
		t.Errorf("guid() = %x…, want %x…", got, want)
	}
}
