package ukitest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Stub is a UEFI program that does nothing: its one function returns. It has room for more
// sections. It was laid out by hand after the PE Format.
func Stub() []byte {
	const align, headers = 512, 1024
	b := make([]byte, headers+2*align)
	put := func(at int, v any) {
		if _, err := binary.Encode(b[at:], binary.LittleEndian, v); err != nil {
			panic(err) // numbers and arrays of them
		}
	}
	copy(b, "MZ")
	put(0x3c, uint32(0x40))
	copy(b[0x40:], "PE\x00\x00")
	put(0x44, uint16(0x8664))   // machine
	put(0x46, uint16(2))        // sections
	put(0x54, uint16(112+16*8)) // optional header
	put(0x56, uint16(0x22e))
	opt := 0x58
	put(opt, uint16(0x20b))
	put(opt+4, uint32(align))    // code
	put(opt+8, uint32(align))    // initialized data
	put(opt+16, uint32(0x1000))  // entry
	put(opt+20, uint32(0x1000))  // base of code
	put(opt+24, uint64(1)<<32)   // base
	put(opt+32, uint32(0x1000))  // section alignment
	put(opt+36, uint32(align))   // file alignment
	put(opt+56, uint32(0x3000))  // image size
	put(opt+60, uint32(headers)) // headers
	put(opt+64, uint32(0xabcde)) // checksum
	put(opt+68, uint16(10))      // EFI application
	put(opt+108, uint32(16))     // directories
	section := func(i int, name string, flags uint32, content []byte) {
		h := opt + 112 + 16*8 + 40*i
		copy(b[h:h+8], name)
		put(h+8, uint32(len(content)))
		put(h+12, uint32(0x1000*(i+1)))
		put(h+16, uint32(align))
		put(h+20, uint32(headers+align*i))
		put(h+36, flags)
		copy(b[headers+align*i:], content)
	}
	section(0, ".text", 0x60000020, []byte{0x31, 0xc0, 0xc3}) // xor eax, eax; ret
	section(1, ".sbat", 0x40000040, []byte("sbat,1,SBAT Version,sbat,1,https://example.org\n"))
	return b
}

// Pair is a key and its certificate, PEM.
type Pair struct{ Key, Cert []byte }

// NewPair makes a key for signing and a certificate for it that is valid for a day from now. The
// key is in PKCS#1 where old is true, else in PKCS#8.
func NewPair(t testing.TB, name string, bits int, old bool) Pair {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if !old {
		block.Type = "PRIVATE KEY"
		if block.Bytes, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0x8000_0001), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{pem.EncodeToMemory(block), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})}
}
