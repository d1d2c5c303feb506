package uki

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Identifiers of PKCS#7 (RFC 2315), PKCS#9 and Authenticode.
var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidPEImageData   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidSHA256WithRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
)

// Tags of DER.
const (
	tagInteger  = 0x02
	tagOctets   = 0x04
	tagNull     = 0x05
	tagSequence = 0x30
	tagSet      = 0x31
	tagContext0 = 0xa0 // constructed
	tagContext2 = 0xa2
)

// der encodes one value.
func der(tag byte, parts ...[]byte) []byte {
	content := slices.Concat(parts...)
	out := []byte{tag}
	switch n := len(content); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, content...)
}

func derOID(id asn1.ObjectIdentifier) []byte {
	b, err := asn1.Marshal(id)
	if err != nil {
		panic(fmt.Sprintf("encoding %v: %v", id, err)) // constants only
	}
	return b
}

func derAlgorithm(id asn1.ObjectIdentifier) []byte {
	return der(tagSequence, derOID(id), der(tagNull))
}

// indirectData is SpcIndirectDataContent: the digest of a program, and that it is of one. Flags and
// file name, which the format has as well, are empty, as other signing tools leave them.
func indirectData(digest [sha256.Size]byte) []byte {
	peImage := der(tagSequence, []byte{0x03, 0x01, 0x00}, der(tagContext0, der(tagContext2, []byte{0x80, 0x00})))
	return der(tagSequence,
		der(tagSequence, derOID(oidPEImageData), peImage),
		der(tagSequence, derAlgorithm(oidSHA256), der(tagOctets, digest[:])),
	)
}

// contentOf returns the content of a DER value without tag and length, which is what a message digest
// is made of (RFC 2315, 9.3).
func contentOf(value []byte) []byte {
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(value, &raw); err != nil {
		return nil
	}
	return raw.Bytes
}

// sign returns the PKCS#7 message that signs a digest.
func (s *Signer) sign(digest [sha256.Size]byte) ([]byte, error) {
	content := indirectData(digest)
	sum := sha256.Sum256(contentOf(content))
	attributes := [][]byte{
		der(tagSequence, derOID(oidContentType), der(tagSet, derOID(oidIndirectData))),
		der(tagSequence, derOID(oidMessageDigest), der(tagSet, der(tagOctets, sum[:]))),
	}
	slices.SortFunc(attributes, bytes.Compare) // a SET OF in DER is sorted
	toSign := sha256.Sum256(der(tagSet, attributes...))
	signature, err := rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, toSign[:])
	if err != nil {
		return nil, err
	}
	serial, err := asn1.Marshal(s.Chain[0].SerialNumber)
	if err != nil {
		return nil, err
	}
	var certificates []byte
	for _, c := range s.Chain {
		certificates = append(certificates, c.Raw...)
	}
	one := []byte{tagInteger, 1, 1}
	signer := der(tagSequence, one,
		der(tagSequence, s.Chain[0].RawIssuer, serial),
		derAlgorithm(oidSHA256),
		der(tagContext0, attributes...),
		derAlgorithm(oidRSA),
		der(tagOctets, signature),
	)
	return der(tagSequence, derOID(oidSignedData), der(tagContext0, der(tagSequence, one,
		der(tagSet, derAlgorithm(oidSHA256)),
		der(tagSequence, derOID(oidIndirectData), der(tagContext0, content)),
		der(tagContext0, certificates),
		der(tagSet, signer),
	))), nil
}

// What of a message is read.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version      int
		Digests      asn1.RawValue
		Content      contentInfo
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []signerInfo  `asn1:"set"`
	}
	signerInfo struct {
		Version int
		ID      struct {
			Issuer asn1.RawValue
			Serial *big.Int
		}
		Digest     pkix.AlgorithmIdentifier
		Attributes asn1.RawValue `asn1:"optional,tag:0"`
		Encryption pkix.AlgorithmIdentifier
		Signature  []byte
		More       asn1.RawValue `asn1:"optional,tag:1"`
	}
	attribute struct {
		Type   asn1.ObjectIdentifier
		Values asn1.RawValue
	}
	indirectContent struct {
		Data   asn1.RawValue
		Digest struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
	}
)

// verifySigned checks a message that says to sign a program with this digest, and returns
// the certificate of the key that signed it.
func verifySigned(message []byte, digest [sha256.Size]byte) (*x509.Certificate, error) {
	var outer contentInfo
	if _, err := asn1.Unmarshal(message, &outer); err != nil || !outer.Type.Equal(oidSignedData) {
		return nil, errors.New("is no PKCS#7 message")
	}
	var data signedData
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &data); err != nil {
		return nil, fmt.Errorf("its PKCS#7 message cannot be read: %w", err)
	}
	if len(data.Signers) != 1 || !data.Content.Type.Equal(oidIndirectData) {
		return nil, errors.New("it signs something else than a program, or has not one signer")
	}
	var content indirectContent
	if _, err := asn1.Unmarshal(data.Content.Content.Bytes, &content); err != nil {
		return nil, fmt.Errorf("its digest of the program cannot be read: %w", err)
	}
	if !content.Digest.Algorithm.Algorithm.Equal(oidSHA256) {
		return nil, errors.New("its digest of the program is no SHA-256")
	}
	if !bytes.Equal(content.Digest.Digest, digest[:]) {
		return nil, fmt.Errorf("it is of other contents: the program has digest %x, it signs %x; somebody changed the file", digest, content.Digest.Digest)
	}
	signer := data.Signers[0]
	sum := sha256.Sum256(contentOf(data.Content.Content.Bytes))
	if err := checkAttributes(signer.Attributes.Bytes, sum); err != nil {
		return nil, err
	}
	certificates, err := x509.ParseCertificates(data.Certificates.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its certificates cannot be read: %w", err)
	}
	return signer.verify(certificates)
}

// checkAttributes checks that the signed attributes name the content with this digest.
func checkAttributes(attributes []byte, sum [sha256.Size]byte) error {
	for rest := attributes; len(rest) > 0; {
		var a attribute
		var err error
		if rest, err = asn1.Unmarshal(rest, &a); err != nil {
			return fmt.Errorf("its attributes cannot be read: %w", err)
		}
		if a.Type.Equal(oidMessageDigest) {
			if !bytes.Equal(a.Values.Bytes, der(tagOctets, sum[:])) {
				return errors.New("what was signed is not the digest that it holds")
			}
			return nil
		}
	}
	return errors.New("its attributes have no digest")
}

// verify checks the signature with the certificate that it names.
func (s signerInfo) verify(certificates []*x509.Certificate) (*x509.Certificate, error) {
	for _, c := range certificates {
		if !bytes.Equal(c.RawIssuer, s.ID.Issuer.FullBytes) || c.SerialNumber.Cmp(s.ID.Serial) != 0 {
			continue
		}
		public, ok := c.PublicKey.(*rsa.PublicKey)
		rsaAlgorithm := s.Encryption.Algorithm.Equal(oidRSA) || s.Encryption.Algorithm.Equal(oidSHA256WithRSA)
		if !ok || !rsaAlgorithm || !s.Digest.Algorithm.Equal(oidSHA256) {
			return nil, errors.New("it was not made with RSA and SHA-256")
		}
		signed := sha256.Sum256(der(tagSet, s.Attributes.Bytes))
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, signed[:], s.Signature); err != nil {
			return nil, fmt.Errorf("it was not made with the key of its certificate (%s)", c.Subject)
		}
		return c, nil
	}
	return nil, errors.New("the certificate of its key is not in it")
}
