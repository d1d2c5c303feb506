package uki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
)

// An entry of the certificate table (UEFI 2.10, 32.2.4 and PE Format, "The
// Attribute Certificate Table"): length, revision and type, then a PKCS#7 message.
const (
	certificateHeader   = 8
	certificateRevision = 0x0200
	certificatePKCS7    = 0x0002
	certificateAlign    = 8
)

// Digest is what a signature is made over: the SHA-256 of everything but the checksum, the
// entry that says where the signatures are, and the signatures ("Windows Authenticode Portable Executable Signature Format").
func (im *Image) Digest() [sha256.Size]byte {
	checksum, entry := im.optional+optCheckSum, im.optional+optCertificate
	end := len(im.data) - len(im.certificates)
	h := sha256.New()
	h.Write(im.data[:checksum])
	h.Write(im.data[checksum+4 : entry])
	h.Write(im.data[entry+8 : end])
	h.Write(make([]byte, -end&(certificateAlign-1)))
	return [sha256.Size]byte(h.Sum(nil))
}

// Unsigned returns the program without signatures: the bytes that were signed.
func (im *Image) Unsigned() []byte {
	out := bytes.Clone(im.data[:len(im.data)-len(im.certificates)])
	if im.Signed() {
		out = out[:im.Sections[len(im.Sections)-1].end]
	}
	clear(out[im.optional+optCertificate:][:8])
	return out
}

// Sign returns the program with one signature by s, in place of those that it
// had. The same input gives the same bytes: the signature holds no time.
func Sign(program []byte, s *Signer) ([]byte, error) {
	im, err := Parse(program)
	if err != nil {
		return nil, err
	}
	message, err := s.sign(im.Digest())
	if err != nil {
		return nil, fmt.Errorf("signing with the key of %s: %w", s.Name(), err)
	}
	out := im.Unsigned()
	out = append(out, make([]byte, -len(out)&(certificateAlign-1))...)
	start := len(out)
	out = binary.LittleEndian.AppendUint32(out, uint32(certificateHeader+len(message)))
	out = binary.LittleEndian.AppendUint16(out, certificateRevision)
	out = binary.LittleEndian.AppendUint16(out, certificatePKCS7)
	out = append(out, message...)
	out = append(out, make([]byte, -len(out)&(certificateAlign-1))...)
	entry := out[im.optional+optCertificate:]
	binary.LittleEndian.PutUint32(entry, uint32(start))
	binary.LittleEndian.PutUint32(entry[4:], uint32(len(out)-start))
	return out, nil
}

// Signatures checks all signatures and returns the certificates of the keys that made them,
// as they are in the file: whether to trust them is the caller's. There are none in
// a program that is not signed. An error says which signature is wrong, and how.
func (im *Image) Signatures() ([]*x509.Certificate, error) {
	digest := im.Digest()
	var out []*x509.Certificate
	for rest := im.certificates; len(rest) > 0; {
		if len(rest) < certificateHeader {
			return nil, errors.New("its table of signatures is damaged")
		}
		length, kind := int64(binary.LittleEndian.Uint32(rest)), binary.LittleEndian.Uint16(rest[6:])
		if length < certificateHeader || length > int64(len(rest)) {
			return nil, fmt.Errorf("its table of signatures is damaged: one has %d bytes of %d", length, len(rest))
		}
		if kind != certificatePKCS7 {
			return nil, fmt.Errorf("signature %d is of type %#x, which Secure Boot does not use for programs", len(out)+1, kind)
		}
		cert, err := verifySigned(rest[certificateHeader:length], digest)
		if err != nil {
			return nil, fmt.Errorf("signature %d: %w", len(out)+1, err)
		}
		out = append(out, cert)
		next := min((length+certificateAlign-1)&^(certificateAlign-1), int64(len(rest)))
		rest = rest[next:]
	}
	return out, nil
}
