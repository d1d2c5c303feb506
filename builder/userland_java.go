package builder

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"path"
	"time"
	"unicode/utf16"
)

// Java's own file of authorities, in the format JKS. Without it no Java program gets a connection by
// TLS. The password is known to all; it keeps nothing secret.
const (
	javaKeys     = "etc/ssl/certs/java/cacerts"
	javaSettings = "etc/default/cacerts" // of ca-certificates-java, which makes the file when it is installed
	javaPassword = "changeit"
)

// addJavaKeys gives Java the authorities that everybody has.
func (r *root) addJavaKeys() error {
	if r.absent(javaSettings) || !r.absent(javaKeys) {
		return nil
	}
	text, err := r.text(allCertificates)
	if err != nil {
		return err
	}
	var certificates [][]byte
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			certificates = append(certificates, block.Bytes)
		}
	}
	return r.tree.AddBytes(javaKeys, 0o644, keyStore(certificates, r.tree.Time()), path.Base(javaSettings))
}

// keyStore writes certificates as a key store of Java, format JKS version 2, as
// sun.security.provider.JavaKeyStore reads it.
func keyStore(certificates [][]byte, made time.Time) []byte {
	var b bytes.Buffer
	number := func(n any) { binary.Write(&b, binary.BigEndian, n) } // to memory: no error
	text := func(s string) { number(uint16(len(s))); b.WriteString(s) }
	number(uint32(0xfeedfeed))
	number(uint32(2))
	number(uint32(len(certificates)))
	for i, c := range certificates {
		number(uint32(2)) // a trusted certificate
		text(fmt.Sprintf("debian:%03d", i))
		number(made.UnixMilli())
		text("X.509")
		number(uint32(len(c)))
		b.Write(c)
	}
	sum := sha1.New()
	for _, unit := range utf16.Encode([]rune(javaPassword)) {
		sum.Write([]byte{byte(unit >> 8), byte(unit)})
	}
	io.WriteString(sum, "Mighty Aphrodite")
	sum.Write(b.Bytes())
	return sum.Sum(b.Bytes())
}
